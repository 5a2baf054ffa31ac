"""The laws, one file per part. A law is one function under `hardpoint.conformance.law.law`."""
