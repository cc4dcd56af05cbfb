#!/bin/sh
# Runs in the container before the application: the job stops here unless there is a PNG to work on.
[ "$(head -c 4 /sd-container/encrypted/jp2a_input/image.png | tail -c 3)" = PNG ]
