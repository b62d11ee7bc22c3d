"""The client of zsq: SDK (`client`), command line (`cli`), the whole stack on one machine (`stack`)."""
