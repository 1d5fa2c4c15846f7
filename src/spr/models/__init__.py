"""The adapters behind the ports of `spr.ports`: multimodal models in process or behind a server, dual
encoders, detectors, and scripted ones.

torch and transformers are imported by the modules that need them, never by this package itself.
"""
