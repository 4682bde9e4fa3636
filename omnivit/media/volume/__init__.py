"""Volumes (CT, MRI) and medical images: DICOM and NIfTI. See `read`."""
