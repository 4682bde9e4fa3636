"""`document`: pages (PDF, images of pages) cut into crops, each seen by an image encoder."""

from omnivit_encoders.document.encoder import DocumentConfig, DocumentEncoder, DocumentProcessor

__all__ = ["DocumentConfig", "DocumentEncoder", "DocumentProcessor"]
