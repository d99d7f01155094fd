"""The DeepSeek decoder as programs for a chip; :mod:`kiwicha_host.language.decoder` has what decoders share."""
