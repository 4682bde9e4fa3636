"""Built-in encoders: a module each, or a package where an encoder has several modules."""

from omnivit import moved

moved.add(
    {
        "omnivit_encoders.document_native": "omnivit_encoders.document.native",
        "omnivit_encoders.imagebind_media": "omnivit_encoders.imagebind.media",
        "omnivit_encoders.imagebind_model": "omnivit_encoders.imagebind.model",
        "omnivit_encoders.timm_activation": "omnivit_encoders.timm.activation",
        "omnivit_encoders.timm_layouts": "omnivit_encoders.timm.layouts",
        "omnivit_encoders.ulip_point_bert": "omnivit_encoders.ulip.point_bert",
        "omnivit_encoders.ulip_weights": "omnivit_encoders.ulip.weights",
        "omnivit_encoders.video_temporal": "omnivit_encoders.video.temporal",
        "omnivit_encoders.whisper_ctranslate2": "omnivit_encoders.whisper.ctranslate2_weights",
    }
)
