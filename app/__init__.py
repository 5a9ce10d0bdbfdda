"""The studio's page. The only package that imports gradio."""
