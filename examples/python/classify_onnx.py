"""Classify a picture without PyTorch: classify_onnx.py MODEL.onnx PICTURE [LIBRARY]."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

model, picture, *libraries = sys.argv[1:]
options = onnxruntime.SessionOptions()
for library in libraries:
    options.register_custom_ops_library(library)
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["involution"])
how, crop = about["preprocessing"], about["preprocessing"]["crop"]

image = ImageOps.exif_transpose(Image.open(picture)).convert(how["channels"])
size = [int(how["resize"] * side / min(image.size)) for side in image.size]
image = image.resize(size, Image.Resampling[how["interpolation"].upper()])
left, top = (round((side - crop) / 2) for side in size)
pixels = np.asarray(image, np.float32).reshape(size[1], size[0], -1)[top : top + crop, left : left + crop] / 255
images = ((pixels - how["mean"]) / how["std"]).transpose(2, 0, 1)[None].astype(np.float32)

((logits,),) = session.run(["logits"], {"images": images})
scores = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
for place in scores.argsort()[::-1][:5]:
    print(f"{scores[place]:.4f}  {about['classes'][place]}")
