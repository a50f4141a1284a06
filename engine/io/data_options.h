/* data_options.h - what data sets, and shards of them, can be told. */
#ifndef PF_DATA_OPTIONS_H
#define PF_DATA_OPTIONS_H

#include "reading.h"

/* PF_EINVAL for options that a data set (of_shards: the making of shards) has not, or not so. */
int pf_data_check_options(const pf_config *options, bool of_shards);
double pf_data_number(const pf_config *options, const char *name);
const char *pf_data_text(const pf_config *options, const char *name);
const pf_option_info *pf_data_option(const char *name);
/* The share that is held back of what is read. */
double pf_data_fraction(const pf_reading *reading, const pf_config *options);
/* What a reading is told by them. */
void pf_reading_ask(pf_reading *reading, const pf_config *options);

#endif
