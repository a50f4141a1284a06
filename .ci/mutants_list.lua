-- mutants_list.lua - small changes of the engine and of what stands on it, each with the tests that
-- ought to notice it, the nearest first. `from` stands in `file` exactly once. See .ci/mutants.
local list = {}

--- floor { name, file, from, to, tests }
local function change(name, file, from, to, tests)
  list[#list + 1] = { name = name, file = file, from = from, to = to, tests = tests }
end

-- ---- runtime ----

change("the budget 4 KB too generous", "engine/runtime/heap_blocks.c",
  "total <= budget - h->live", "total <= budget - h->live + 4096", "heap_test")
change("the cache keeps what the budget needs", "engine/runtime/heap_blocks.c",
  "if (fits && h->cached <= room) break;", "if (fits) break;", "heap_test memory_spec")
change("an orphaned heap caches", "engine/runtime/heap.c",
  "keep = ours && h->refs > 0 && !h->uncached;", "keep = ours && !h->uncached;",
  "heap_test runtime_test")
change("two purposes share a stream of random numbers", "engine/runtime/rng.c",
  "(uint32_t)purpose, 0}", "0, 0}", "runtime_test projection_test projection_spec")
change("pf_rng_below takes the low half", "engine/runtime/rng.c",
  "return x1 * n1 + (mid >> 32) + (cross >> 32);", "return (mid + cross) % n;",
  "runtime_test projection_test")
change("uniform numbers may be 1", "engine/runtime/rng.c",
  "out[i] = value < top ? value : top;", "out[i] = value;", "runtime_test")

-- ---- ops ----

change("kv_heads below 0 allowed", "engine/ops/heads.c",
  "kv < 0 || kv > most", "kv > most", "ops_attrs_test ops_spec")
change("split_heads adds no gradient to what is there", "engine/ops/heads.c",
  "(job->fresh ? 0 : dx[i]) + dy[i * s]", "dy[i * s]", "ops_spec autograd_spec")
change("centred taps one more ahead", "engine/ops/conv.c",
  "c->attr[0].i ? 0 : (width - 1) / 2", "c->attr[0].i ? 0 : width / 2",
  "ops_matrix_test ops_spec nn_spec")
change("a tap reads across documents", "engine/ops/conv.c",
  "job->documents[base + s] != job->documents[base + t]", "false", "ops_spec nn_spec")
change("gradient of a masked tap", "engine/ops/conv.c",
  "tap_row(job, base, t, j) != s) continue;", "false) continue;", "ops_spec nn_spec")
change("n-grams read across documents", "engine/ops/ngrams.c",
  "document && document[t] != document[from]", "false", "nn_spec ops_spec")
change("an n-gram of one order in another's buckets", "engine/ops/ngrams.c",
  "order * job->buckets + (int64_t)(hash", "(int64_t)(hash", "nn_spec ops_spec")
change("a position that does not count counts in the mean", "engine/ops/loss.c",
  "counted += id[i] >= 0", "counted += 1", "norms_losses_test ops_spec")
change("cross-entropy from the sum of maximum and log", "engine/ops/loss.c",
  "((double)m - (double)x[job->id[r]]) + ls",
  "(double)(float)((double)m + ls) - (double)x[job->id[r]]",
  "norms_losses_test ops_spec extremes_spec")
change("rotary ignores the offset where positions are given", "engine/ops/rotary.c",
  "job->start = low + job->offset;", "job->start = low;", "ops_spec ops_matrix_test nn_spec")
change("rotary turns what stands behind `dims`", "engine/ops/rotary.c",
  "if (n < job->width) memcpy(to + n, from + n, (size_t)(job->width - n) * sizeof *to);", "",
  "ops_spec ops_matrix_test")

-- ---- autograd ----

change("reversible branches run under another seed again", "engine/autograd/reversible.c",
  "    e->seed = r->seed;\n", "", "savers_test reversible_spec")
change("a reversible half with no gradient begins at 1", "engine/autograd/reversible.c",
  "status = pf_tensor_fill(h.grad[k], 0);", "status = pf_tensor_fill(h.grad[k], 1);",
  "savers_test reversible_spec")

-- ---- kernel ----

change("all heads share a projection", "engine/kernel/projection.c",
  "o->layer << 32 | (uint64_t)head, o->epoch)", "o->layer << 32, o->epoch)",
  "projection_test projection_spec")
change("a redraw draws the same again", "engine/kernel/projection.c",
  "o->layer << 32 | (uint64_t)head, o->epoch)", "o->layer << 32 | (uint64_t)head, 0)",
  "projection_test projection_spec nn_spec")
change("rows of chi norm have norm sqrt(d)", "engine/kernel/projection.c",
  "o->norms == PF_NORMS_CHI ? own : sqrt((double)d)", "sqrt((double)d)",
  "projection_test projection_spec")
change("eps leaves the gradient of the largest feature", "engine/kernel/map_softmax.c",
  "    df[top] += args->eps * sum;\n", "", "attention_close_test attention_spec kernels_spec")
change("the cosh map forgets its second half's gradient", "engine/kernel/map_softmax.c",
  "args->kern->axpy(m, -1, df + i * ld + m, df + i * ld);", "(void)df;",
  "attention_close_test attention_spec")
change("a tilt without its slope in the gradient", "engine/kernel/map_softmax.c",
  "if (args->slope == 1) return;", "return;", "attention_close_test attention_spec")
change("hadamard blocks without permutations", "engine/kernel/hadamard.c",
  "if (n > 3 && t % 2 == 0)", "if (false)", "projection_test projection_spec golden_spec")
change("the theory forgets that rows of a block are coupled", "engine/kernel/error_theory.c",
  "(1 + c * sine)", "(1 - c * sine)", "kernel_test theory_spec")
change("the theory's angles without weight", "engine/kernel/error_theory.c",
  "w = pow(sine, d - 1);", "w = 1;", "kernel_test theory_spec")

-- ---- attention ----

change("a query reads another head's keys", "engine/attention/exact/softmax_block.c",
  "t->kv = head / op->group;", "t->kv = head % op->Hk;",
  "attention_close_test attention_masks_spec")
change("a query sees one key too many under limits", "engine/attention/exact/softmax_block.c",
  "for (int64_t j = t->to[i]; j < n; j++) row[j] = -INFINITY;",
  "for (int64_t j = t->to[i] + 1; j < n; j++) row[j] = -INFINITY;",
  "attention_close_test attention_spec")
change("a bad value reaches queries before it", "engine/attention/exact/softmax_block.c",
  "if (!sees(t, i, j) || (t->op->dropped && p == 0)) continue;",
  "if (t->op->dropped && p == 0) continue;", "attention_bits_test attention_spec extremes_spec")
change("dropout of attention's weights not in their gradient",
  "engine/attention/exact/softmax_block.c", "    drop(t, t->dp);\n", "", "attention_options_spec")
change("the running maximum of the whole chunk", "engine/attention/linear/causal.c",
  "w->top[i] = w->sees[i] > 0 ? w->run[w->sees[i] - 1] : w->M;",
  "w->top[i] = w->keys > 0 ? w->run[w->keys - 1] : w->M;",
  "attention_bits_test attention_close_test attention_spec")
change("bad values of linear attention reach what is before", "engine/attention/linear/causal.c",
  "if (w->sees[i] <= j) continue;", "", "attention_bits_test extremes_spec")
change("a document begins with the entry state", "engine/attention/linear/sums.c",
  "if (op->entry_s && w->seg->first) {", "if (op->entry_s) {",
  "attention_close_test state_test attention_masks_spec")
change("an exit state without its log-shift", "engine/attention/linear/sums.c",
  "op->exit_shift[at] = w->M;", "",
  "attention_close_test state_test attention_masks_spec")
change("the entry state's gradient without its factor", "engine/attention/linear/sums.c",
  "w->kern->scale(op->r, factor, w->y,", "w->kern->scale(op->r, 1, w->y,",
  "attention_close_test attention_gradients_spec sliced_spec")
change("the log-partition forgets the keys' shift", "engine/attention/alone/log_partition.c",
  "double size = p.size[i] + (double)p.top[i];", "double size = p.size[i];",
  "weights_spec attention_spec")
change("flops of causal exact attention as of full", "engine/attention/exact/cache.c",
  "if (shape->causal) keys = (keys + 1) / 2;", "",
  "coverage_spec")

-- ---- nn ----

change("rotary pairs are always halves", "engine/nn/layer_attention.c",
  "strcmp(pf_option_text(m, \"rotary_pairs\"), \"halves\") == 0", "true",
  "attention_options_spec")
change("norms have their own eps", "engine/nn/layer_norm.c", "if (eps > 0) o =", "if (false) o =",
  "architecture_spec")
change("one block in all places is drawn anew for each", "engine/nn/after_step.c",
  "if (is_again(module, i)) continue;", "",
  "architecture_spec")
change("a channel too many is shifted", "engine/nn/layer_conv.c",
  "tap[i] = i < dim / 2 ? 0.0f : 1.0f;", "tap[i] = i < dim / 2 + 1 ? 0.0f : 1.0f;",
  "architecture_spec")
change("axes count the other way round", "engine/nn/layer_positions.c",
  "for (int i = self->axes - 1; i > a; i--)", "for (int i = 0; i < a; i++)", "architecture_spec")
change("groups of heads draw the same rows", "engine/nn/block_heads.c",
  "if (i == 0 || !seed) return PF_OK;", "if (i >= 0 || !seed) return PF_OK;",
  "attention_options_spec")
change("a list of attentions does not go round", "engine/nn/performer_blocks.c",
  "(int)(layer % n)", "(int)(layer % n * 0)", "attention_options_spec")
change("sliced training forgets the calls of random ops", "engine/nn/slices.c",
  "if (i + 1 < s->n) s->calls[i + 1] = calls;", "", "savers_test sliced_spec")
change("rows that stand in another segment get no gradient of it", "engine/nn/segment_rows.c",
  "add_rows(dx, dx->shape[1] - h->to_next, h->to_next, come);", "", "sequence_test")
change("a document goes on from another segment's", "engine/nn/segment_attend.c",
  "if (begins(l, b)) pf_part_state_forget(&l->shape, block, b);", "(void)b;", "sequence_test")
change("states are joined without their decay", "engine/attention/linear/part_state.c",
  " - decay * (float)*j->near.length", " - 0 * decay", "sequence_test")
change("states go past a document's beginning", "engine/attention/linear/part_state.c",
  "if (j->near.cut[task / p->heads]) return;", "", "sequence_test")
change("a scan joins the furthest node first", "engine/comm/scan.c",
  "for (int i = s->n - 1; i >= 0; i--) {\n        if (i == s->n - 1)",
  "for (int i = 0; i < s->n; i++) {\n        if (i == 0)", "scan_test")
change("a slice goes on in another document", "engine/nn/slices.c",
  "s->keep[b] = row[at * d->stride[1]] == row[(at - 1) * d->stride[1]];", "s->keep[b] = true;",
  "savers_test sliced_spec")

-- ---- ranks ----

change("what a second run reads is whole before it", "engine/autograd/leaves.c",
  "return node->n_in + node->recompute.read.n;", "return node->n_in;", "overlap_test")
change("a leaf is whole at its first node", "engine/autograd/leaves.c",
  "if (leaf && leaf->awaited == 0)", "if (leaf)", "overlap_test")
change("rounds behind a failed vote have the old tags and numbers", "engine/comm/drain.c",
  "b->rounds = 0, b->since = failures,", "b->rounds = 0, b->since = 0 * failures,",
  "overlap_fails_test")
change("nothing is drained", "engine/comm/comm.c",
  "if (own.beside) pf_beside_drain", "if (false) pf_beside_drain", "overlap_fails_test ranks_spec")
change("messages that nobody waits for stay", "engine/comm/drain.c",
  "c->awaited[i] < c->theirs[i]", "false", "overlap_fails_test ranks_spec")
change("a step is given up without a word", "engine/comm/scatter.c",
  "comm->beside.spoiled = true;", "comm->beside.spoiled = false;", "overlap_fails_test")
change("ranks step with rates of their own", "engine/train/terms.c",
  "its->lr != first->lr || its->clip != first->clip", "false", "lanes_test")
change("the order of options counts", "engine/train/terms.c",
  "entries += mix_tree(", "entries = 31 * entries + mix_tree(", "lanes_test")
change("threads of ranks are not counted", "engine/comm/hello.c",
  "threads <= all[r].free", "true", "talk_test")
change("all blocks that are left go to one rank", "engine/train/shard.c",
  "load[r] < load[least])) least = r;", "false)) least = r;", "rank_memory_test")

-- ---- train ----

change("AdamW without the first correction", "engine/train/adamw.c",
  "c[C1] = (float)(1 / (1 - pow(beta1, (double)step)));", "c[C1] = 1;", "optim_test optim_spec")
change("AdamW's eps inside the correction of another moment", "engine/train/adamw.c",
  "c[C2] = (float)(1 / (1 - pow(beta2, (double)step)));",
  "c[C2] = (float)(1 / (1 - pow(beta1, (double)step)));", "optim_test optim_spec")
change("Lion keeps its moment by the wrong memory", "engine/train/lion.c",
  "m[i] = beta2 * m[i] + rest2 * x;", "m[i] = beta1 * m[i] + rest1 * x;", "optim_test optim_spec")
change("decay of norms and biases too", "engine/train/optim.c",
  "p->param->rank >= 2 ? (float)option(o, group, \"decay\") : 0",
  "(float)option(o, group, \"decay\")",
  "optim_test optim_spec")
change("decay of adam beside the gradient", "engine/train/adam.c",
  "u->kern->axpy(part.n, u->decay, part.p, g);", "(void)g;", "optim_spec")
change("queries, keys and values as one matrix for muon", "engine/train/groups.c",
  "o->entry[at].part[k] = k == 0 ? all - 2 * key : key;", "(void)key;", "muon_spec")
change("a tied head is orthogonalised", "engine/train/groups.c",
  "o->entry[i].linear &= !o->entry[i].other;", "(void)i;", "muon_spec")
change("an average without its warm-up", "engine/train/average.c",
  "fmin(o->ema, (1 + t) / (10 + t))", "fmin(o->ema, t)", "training_spec")
change("a node forgets its layer", "engine/autograd/finite.c",
  "memcpy(node->place, w->place, PF_PLACE_BYTES);", "node->place[0] = 0;",
  "finite_spec finite_test")
change("gradients are not looked at", "engine/autograd/finite.c",
  "if (in.kind == FINE) return PF_OK;", "return PF_OK;", "finite_spec finite_test")
change("the norm forgets a block of a large gradient", "engine/train/clip.c",
  "int64_t start = (block - m->first[g]) * PF_NORM_BLOCK;", "int64_t start = 0;",
  "optim_test optim_spec shard_test")
change("a step before the norm is known to be finite", "engine/train/clip.c",
  "*bad = i;", "(void)i;", "optim_test optim_spec")
change("a step that failed leaves its notes", "engine/train/optim.c",
  "    pf_notes_clear(o->module);\n", "", "lane_layers_test")
change("a lane's rows are as long as its own longest", "engine/io/batch.c",
  "i < batch->input->shape[0]", "i < batch->rows", "carry_spec")
change("blocks of the norm are added in the ranks' order", "engine/train/shard.c",
  "m.norm.sums[m.block[i]] = m.sum[i];", "m.norm.sums[i] = m.sum[i];", "shard_test")
change("a piece is packed a stretch too late", "engine/comm/deal.c",
  "s.first += place->over;", "(void)place;", "shard_test")
change("a rank moves before all have room", "engine/train/optim.c",
  "return make_ready(o, e, g);", "return PF_OK;", "shard_test")
change("a host whose threads fail leaves a step half done", "engine/runtime/parallel.c",
  "if (engine->shield > 0) return PF_OK;", "", "shard_test refused_test")
change("the schedule ends half way down", "engine/train/schedule.c",
  "0.5 * (1 + cos(pi * done))", "0.5 * (1 + cos(0.5 * pi * done))", "optim_test optim_spec")

-- ---- io ----

change("what is not there is not told as a checkpoint", "engine/io/folder.c",
  "status == PF_ENOTFOUND && !there ? nothing_there(status) : status", "status", "ship_test")
change("options of a host's layer are not seen", "engine/nn/build.c",
  "if (pf_config_size(pf_config_get(node, \"options\")) > 0) {", "if (false) {", "nn_test")
change("a file is renamed before it is on the disk", "engine/io/file.c",
  "int result = pf_disk_sync(&w->file);", "int result = 0;", "power_test folder_test")
change("the folder of a file is not synced", "engine/io/file.c",
  "if (w->target) status = pf_dir_sync(w->engine, w->parent);", "", "power_test file_test")
change("a checkpoint's folder is not synced", "engine/io/folder_save.c",
  "    return pf_dir_sync(at->engine, at->temp);", "    return PF_OK;", "power_test folder_test")
change("the run folder is not synced", "engine/io/folder_save.c",
  "if (installed) status = pf_dir_sync(engine, run);", "", "power_test folder_test")
change("an interrupted call is an error", "engine/io/disk.c",
  "while ((result) == -EINTR && ++tries_ < INTERRUPTS);", "while (++tries_ < 0);",
  "folder_test hosted_files_test")
change("a step folder is emptied under its final name", "engine/io/folder_save.c",
  "good = good && pf_disk_rename(engine, path, temp) >= 0 && pf_dir_sync(engine, run) >= 0;\n"
    .. "    good = good && pf_dir_remove(engine, temp);",
  "good = good && pf_dir_remove(engine, path);", "power_test folder_own_test")
change("a header of any size is read", "engine/io/safetensors.c",
  "length > (uint64_t)PF_ST_HEADER || ", "", "header_test io_test")
change("tensors are not sorted by where they lie", "engine/io/safetensors.c",
  "if (s->n > 1) qsort(s->entry, (size_t)s->n, sizeof *s->entry, compare_offsets);", "",
  "header_test io_test")
change("the state of random numbers is not restored", "engine/api/api_checkpoint.c",
  "        engine->draws = draws;\n", "", "checkpoint_test commands_figures_spec")

-- ---- scripts ----

change("BEST marks the worst", "scripts/kit/run.lua",
  "loss < state.best", "loss > state.best", "commands_figures_spec")
change("the batches of a step count alike", "scripts/kit/steps.lua",
  "batch.tokens / self.step_tokens or", "1 / n or", "commands_accumulate_spec")
change("every batch of a step has the dropout of the first", "scripts/kit/steps.lua",
  "self.step_batches[i or 1].forward - 1", "0", "commands_accumulate_spec")
change("the weights are judged, not their average", "scripts/train.lua",
  "run:averaged(evaluate.run, ", "evaluate.run(", "commands_average_spec")
change("a save in an evaluation leaves the weights for the average", "scripts/kit/run.lua",
  "  if lent then self:lend(true) end\n", "", "commands_average_spec")
change("half-moved weights are saved", "scripts/kit/run.lua",
  "self.done > 0 and not self.moving", "self.done > 0", "commands_failures_spec")
change("patience begins anew with every evaluation", "scripts/kit/run.lua",
  "state.waited = (state.waited or 0) + 1", "state.waited = 1", "commands_course_spec")
change("accuracy off by one", "engine/nn/evaluate.c",
  "best[i] == id[i]", "best[i] == id[i] + 1", "commands_figures_spec sliced_spec")
change("the baseline comes from the held-out letters", "scripts/kit/evaluate.lua",
  "data:counts(\"train\").unigram", "data:counts(\"valid\").unigram", "commands_figures_spec")
change("counting is trained on the held-out tokens", "scripts/kit/evaluate.lua",
  "local train = data:counts(\"train\")", "local train = data:counts(\"valid\")",
  "commands_figures_spec commands_train_spec")
change("the gradient is not clipped", "scripts/train.lua",
  "optimizer:step { lr = lr, clip = settings.clip }", "optimizer:step { lr = lr }",
  "commands_figures_spec")
change("a loss that is no number is trained on", "scripts/kit/run.lua",
  "if loss ~= loss or math.abs(loss) == math.huge then", "if false then", "commands_run_spec")

change("a vector's mean counts begin and end", "scripts/embed.lua",
  "marks[list[i]] and 0 or 1", "1", "commands_protein_spec")
change("a variant's score has the other sign", "scripts/kit/variants.lua",
  "sum = sum + p[change.to_id + 1] - p[change.from_id + 1]",
  "sum = sum + p[change.from_id + 1] - p[change.to_id + 1]", "commands_protein_spec")
change("of several changes only one is hidden", "scripts/kit/variants.lua",
  "for _, at in ipairs(places) do row[at - skipped] = mask end",
  "row[places[1] - skipped] = mask", "commands_protein_spec")

-- ---- api ----

change("sampling draws from position 0 always", "engine/api/api_sample.c",
  "row, (uint64_t)position);", "row, 0);", "sample_test stream_test streaming_spec")
change("all rows draw alike", "engine/api/api_sample.c",
  "pf_rng_make(o->seed, PF_DRAW_SAMPLE, row,", "pf_rng_make(o->seed, PF_DRAW_SAMPLE, 0,",
  "sample_test stream_test streaming_spec")
change("top_p of all, not of the top_k", "engine/api/api_sample.c",
  "        sum = 0;\n        for (int64_t i = 0; i < kept; i++) {\n            pop(s, n - i);\n"
  .. "            sum += s->all->weight[s->all->order[n - i - 1]];\n        }",
  "        for (int64_t i = 0; i < kept; i++) pop(s, n - i);",
  "sample_test stream_test streaming_spec")
change("of equal logits the last", "engine/api/api_sample.c",
  "logit(s, i) > logit(s, at))) at = i;", "logit(s, i) >= logit(s, at))) at = i;",
  "sample_test stream_test streaming_spec")
change("a penalty on what a failed call fed", "engine/api/api_sample.c",
  "const uint8_t fed = logits == s->coming ? 3 : 1;", "const uint8_t fed = 3;", "sample_test")
change("the penalty raises logits below 0", "engine/api/api_sample.c",
  "x > 0 ? x / s->penalty : x * s->penalty", "x / s->penalty", "sample_test")
change("a stop in the middle of a protein passes", "engine/io/tokenizer.c",
  "!(c == '*' && *at + 1 == bytes)", "!(c == '*')", "data_test fasta_test")

-- ---- patterns ----

change("a window sees one key more", "engine/attention/sparse/rule_sliding.c",
  "(a->causal ? width - 1 : width)", "width", "patterns_spec")
change("ahead sees one key more", "engine/attention/sparse/rule_sliding.c",
  ".to = a->causal ? 0 : step * ahead,", ".to = a->causal ? 0 : step * ahead + 1,", "patterns_spec")
change("global columns count again inside the window", "engine/attention/sparse/rule_sliding.c",
  "if (!cuts) end = pf_min(end, pf_ask_before(a, place + span->from));", "", "patterns_spec")
change("global tokens are asked for in silence", "engine/attention/sparse/rule_sliding.c",
  "option[QUERIES] == ALL || option[GLOBAL] > 0", "true", "patterns_spec")
change("a stride's key beside the window counts twice", "engine/attention/sparse/rule_strided.c",
  "far.to = -l - 1;", "far.to = -l;", "patterns_spec")
change("the last keys of a block are one too few", "engine/attention/sparse/rule_strided.c",
  "% l >= l - c)", "% l > l - c)", "patterns_spec")
change("all heads draw the same blocks", "engine/attention/sparse/rule_bigbird.c",
  "(uint64_t)g->ask->head;", "0;", "patterns_spec")
change("random blocks know the length", "engine/attention/sparse/rule_bigbird.c",
  "layer, (uint64_t)query);", "layer, (uint64_t)(query + g->k_blocks));", "patterns_spec")
change("Big Bird has no row of nothing", "engine/attention/sparse/rule_bigbird.c",
  "global <= blocks || a->Lk == 0", "global <= blocks", "patterns_spec")
change("a room's window is one too wide", "engine/attention/sparse/rooms.c",
  "        lo[p] = (int32_t)pf_max(first, at - w->window);\n        hi[p] = (int32_t)at;",
  "        lo[p] = (int32_t)pf_max(first, at - w->window - 1);\n        hi[p] = (int32_t)at;",
  "patterns_spec")
change("a masked key takes a place in its room", "engine/attention/sparse/rooms.c",
  "number[j] < 0 ? -1 : number[j]", "number[j] < 0 ? ~number[j] : number[j]",
  "patterns_spec lsh_spec")
change("a masked key's query has no room", "engine/attention/sparse/rooms.c",
  "at < 0 ? ~at : at;", "at;", "patterns_spec lsh_spec")
change("a pair counts in each round that holds it", "engine/attention/sparse/rule_lsh.c",
  "once && t > 0", "false", "patterns_spec patterns_attention_spec")
change("of equal products the last bucket", "engine/attention/sparse/buckets.c",
  "!(sign * u[a] > w->top[side][i])", "!(sign * u[a] >= w->top[side][i])", "buckets_test lsh_spec")
change("half of the buckets are the others", "engine/attention/sparse/buckets.c",
  "turned ? columns + w->at[1][i]", "turned ? w->at[1][i]", "buckets_test lsh_spec")
change("a hash of two factors is a sum", "engine/attention/sparse/buckets.c",
  "half > 0 ? op->first : 1", "1", "buckets_test lsh_spec")
change("a query sees itself beside others", "engine/attention/sparse/listed_tile.c",
  "    if (pattern->self_last) mark_self(t, marks);\n", "", "patterns_attention_spec lsh_spec")
change("what an earlier round holds counts again", "engine/attention/sparse/listed_tile.c",
  "row[c.key[n]] |= place >= lo && place < hi;", "(void)place, (void)row;",
  "patterns_attention_spec lsh_spec")
change("the last of an earlier interval counts again", "engine/attention/sparse/listed_tile.c",
  "cell_of(&c, hi - 1 < c.high ? hi - 1 : c.high) + 1",
  "cell_of(&c, lo > c.low ? lo : c.low) + 1",
  "patterns_attention_spec lsh_spec")
change("a query that sees nothing else takes nothing", "engine/attention/sparse/listed.c",
  "    if (!pf_listed_of(op, pair / s->H, head)->self_last) return;\n    for",
  "    return;\n    for",
  "patterns_attention_spec lsh_spec")
change("lonely queries give their value no gradient", "engine/attention/sparse/listed_back.c",
  "if (s->need_v && op.self_last) {", "if (false) {", "patterns_attention_spec lsh_spec")
change("dq of whole runs grows in both passes", "engine/attention/sparse/listed_back.c",
  "at.from == at.to || (pass->fused && pf_listed_whole(at.part, at.run))", "at.from == at.to",
  "patterns_attention_spec listed_bits_test")
change("limits are those of another segment", "engine/attention/sparse/listed_plan.c",
  "op->by_head || op->s.reach.limit", "op->by_head", "patterns_attention_spec")
change("gradients of short runs keep what was there", "engine/attention/exact/softmax_block.c",
  "    memset(t->dvalue, 0, (size_t)(rows * t->op->dv) * sizeof(float));\n", "",
  "patterns_attention_spec attention_gradients_spec")
change("a window lets go of what it still sees", "engine/attention/sparse/pattern_state.c",
  "position - back_of(a) - kept - gone", "position - back_of(a) + PF_TILE - kept - gone",
  "pattern_state_spec")
change("a stream forgets how many rows it let go of", "engine/attention/sparse/pattern_state.c",
  "held, NULL, s->recent, kept_of(a)", "held, NULL, 0, kept_of(a)", "pattern_state_spec")
change("a merged stretch loses its first tokens", "engine/attention/sparse/pattern_state.c",
  "first = pf_min(kept - own, n)", "first = 0", "pattern_state_spec")
change("centroids lose their length", "engine/attention/sparse/kind_routing.c",
  "    if (!make_unit(d, next)) return;\n", "", "routing_spec")
change("rounds are not those of the rotations", "engine/attention/sparse/kind_lsh.c",
  "asked != has && pf_attention_given", "false && pf_attention_given", "kind_options_spec")
change("a state is of any options", "engine/attention/kinds.c",
  "if (was.number[i] == own.number[i]) continue;", "continue;", "kind_options_spec")
change("a state draws its rotations anew", "engine/attention/alone_rooms.c",
  "if (!table) return rooms->make", "return rooms->make", "lsh_spec")
change("a decay may be below 0", "engine/attention/reach/shapes.c",
  "decay >= 0 && isfinite(decay)", "isfinite(decay)", "attention_masks_spec")
change("a prefix of full attention", "engine/attention/reach/shapes.c",
  "if (prefix && !causal) {", "if (false) {", "attention_masks_spec")

-- ---- edges ----

change("edges stand as they were listed", "engine/attention/edges/edges_make.c",
  "sort_by(l, l->from, l->keys, NULL, l->half);\n"
  .. "    sort_by(l, l->to, l->nodes, l->half, l->order);",
  "sort_by(l, l->to, l->nodes, NULL, l->order);", "edges_spec graph_spec")
change("an edge and its reverse are doubled", "engine/attention/edges/edges_make.c",
  "if (!has(l, given, l->to[e], l->from[e])) add", "add", "edges_spec graph_spec")
change("a masked node is seen", "engine/attention/edges/edges_open.c",
  " && pf_mask_keeps(op->mask, w->item, j)", "", "edges_spec graph_spec")
change("heads share the first bias", "engine/attention/edges/edges_open.c",
  "op->bias_heads > 1 ? w->head : 0", "0", "edges_spec graph_spec")
change("dropped edges weigh in the forward", "engine/attention/edges/edges.c",
  "axpy(op->dv, keep * w->p[n],", "axpy(op->dv, w->p[n],", "edges_spec graph_spec")
change("the sum over a query's edges is no part of its gradient",
  "engine/attention/edges/edges_back.c",
  "w->p[n] * (w->dp[n] - delta)", "w->p[n] * w->dp[n]", "edges_spec graph_spec")
change("a graph of other nodes", "bindings/performer/graph.lua",
  "g.nodes ~= q:size(3) or g.keys ~= k:size(3)", "false", "graph_spec")

-- ---- rows that go on ----

change("a new document goes on from the one before", "engine/nn/carry.c",
  "!row || row[AHEAD] == row[AHEAD - 1]", "true", "carry_spec")
change("windows carry more than they may", "engine/nn/carry.c",
  "s->kind->trim && s->keep > 0", "s->kind->trim && s->keep < 0",
  "pattern_state_spec carry_spec")
change("keep of what has no window", "engine/nn/carry.c",
  "keep == 0 || trims((*state)->child[0])", "true", "carry_spec")
change("documents are counted from each row's begin", "engine/nn/carry.c",
  "int64_t had = run == L ? pf_i32(whole->before)[b] : 0;", "int64_t had = 0;", "carry_spec")
change("a window's part sees keys of other documents", "engine/attention/sparse/pattern_state.c",
  "ends ? number_at(m->there, b, at) : 0", "number_at(m->there, b, at)",
  "carry_spec pattern_state_spec")
change("carried rows all stand at one place", "engine/nn/attention_rows.c",
  "to[i] = from[0] - (int32_t)(n - i)", "to[i] = from[0]", "pattern_state_spec carry_spec")
change("distances of a stream begin anew", "engine/nn/attention_relative.c",
  "pf_min(waves->shape[0], held + L)", "pf_min(waves->shape[0], L)", "relative_spec")

-- ---- a running batch ----

change("rows joined from the first sequence alone", "engine/state/rows.c",
  "pf_tensor_data(gathered->row[b]->tensor[i])", "pf_tensor_data(gathered->row[0]->tensor[i])",
  "serving_test")
change("parted rows all the first one's", "engine/state/rows.c",
  "from + (size_t)b * bytes", "from", "serving_test")
change("gathered nodes without their mark", "engine/state/rows.c",
  "s->mark = trees[0]->mark;", "", "serving_test")
change("gathered nodes stay where they are", "engine/nn/run.c",
  "run->state->row[b]->position += n;", "", "serving_test")
change("gathered nodes of attention stay where they are", "engine/attention/kinds.c",
  "state->row[b]->position += 1;", "", "serving_test")
change("rotary positions of sequences one too far", "engine/nn/layer_attention.c",
  "(int32_t)state->row[b]->position;", "(int32_t)state->row[b]->position + 1;", "serving_test")
change("absolute positions of sequences one too far", "engine/nn/layer_positions.c",
  "state->row[b]->position, 1, &one", "state->row[b]->position + 1, 1, &one", "serving_test")
change("a step reads all prompts", "engine/api/api_serving_step.c",
  "if (slice > room) {", "if (false) {", "serving_whole_test")
change("short prompts overtake", "engine/api/api_serving_step.c",
  "            room = 0;\n", "", "serving_whole_test")
change("threads that fail end a sequence", "engine/api/api_serving_step.c",
  "if (known || s->engine->refused != s->refused) return status;", "if (known) return status;",
  "refused_test")
change("lack of memory ends a sequence", "engine/api/api_serving_step.c",
  "bool known = status == PF_ENOMEM || status", "bool known = status", "serving_whole_test")
change("one sequence's failure is all sequences'", "engine/api/api_serving_step.c",
  "    q->step.failed = status;\n", "    return status;\n", "serving_whole_test serving_test")
change("gathered states of who went before", "engine/api/api_serving_step.c",
  "same = s->gathered[i] == s->running[i]->id;", "same = true;", "serving_whole_test")
change("a draw from the logits before", "engine/api/api_serving_step.c",
  "q->step.moves ? pick->coming : pick->logits", "pick->logits", "serving_test")
change("a failed step goes on with its logits", "engine/api/api_serving_step.c",
  "        if (status < 0)\n            end(s, s->all[i], status);\n        else\n", "",
  "serving_whole_test")
change("a stream joins without what it allows", "engine/api/api_serving.c",
  "if (stream) return pf_stream_fork(&q->stream, stream);",
  "if (stream) { PF_TRY(pf_stream_fork(&q->stream, stream)); "
    .. "return pf_stream_allow(q->stream, NULL, 0); }",
  "serving_whole_test")

return list
