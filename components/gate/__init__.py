"""Champion against challenger: measured on the same images, judged by stated rules."""
