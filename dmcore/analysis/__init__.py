"""One file a question: inputs from the store, a typed result out."""
