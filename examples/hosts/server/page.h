/* page.h - page.html as it lies in the program; the build writes page.c of it. */
#ifndef PAGE_H
#define PAGE_H

#include <stddef.h>

extern const unsigned char page[];
extern const size_t page_bytes;

#endif
