"""Every call into a vendor's package, held against what that package really offers, without importing any of it.

    python ci/vendor_api            # check our source against the committed tables
    python ci/vendor_api prune      # take out rows that nothing reaches any more
    python ci/vendor_api refresh    # read the vendors' wheels again and rewrite the tables (about 2.5 GB with torch)

How it works: `usage` reads our own source and lists every name of a vendor that it reaches, with the shape of each
call; `resolve` finds those names in a wheel (Python source, stubs, op schemas); `tables` keeps what was found, with the
wheel's hash; `check` holds the one against the other. Nothing of a vendor is ever imported.
"""
