"""ESConv extended: replies generated under strategies that its dialogues did not take."""
