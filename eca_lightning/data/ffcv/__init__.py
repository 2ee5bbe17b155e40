"""``.beton`` files: written, verified and streamed by FFCV."""
