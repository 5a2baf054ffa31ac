"""What stock vLLM loads: a derived platform, expert weights that survive a reload, a tripwire, and weight transfer.

Importing this package imports no vLLM; `hardpoint_vllm.general.install` does the work, in every process of an engine.
"""
