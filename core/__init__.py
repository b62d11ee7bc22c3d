"""The numbers of zsq: networks in, low-bit networks out. No web, no queue, no database."""
