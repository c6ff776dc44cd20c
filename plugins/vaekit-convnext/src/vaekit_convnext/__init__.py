"""ConvNeXt-style backbones for vaekit; entry points refer to `encoder` and `decoder`."""
