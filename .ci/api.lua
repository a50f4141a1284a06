-- api.lua - the hand-described part of the Lua surface, as data: what the op, layer and kernel
-- tables don't know. gen_api.lua turns it into bindings/annotations/performer.lua and the tables
-- of bindings/README.md, and refuses to when a function of the module is missing here.
--
-- An entry is { name, parameters, result, what it does }. Parameters: "a: type, b?: type".
-- Names begin with `pf.`, or with a class and a colon for methods.
return {
  {
    id = "engine", title = "Engine",
    { "pf.open", "options?: pf.OpenOptions", "",
      "Opens the engine with options; before anything else uses it, else it opens with " ..
      "defaults. threads (0: all), memory (bytes, or \"4G\"), seed, cpu (generic, avx2, " ..
      "avx512, best), log(level, message), log_level, limits (as of pf.limit)." },
    { "pf.limit", "limits?: pf.Limits", "",
      "Bounds of what is done with the engine from now on, in place of those before; without " ..
      "any, none. bytes (a number, or \"4G\") that it holds in all; work, in units of about an " ..
      "instruction of Lua's (an op: 64, one more for 16 numbers that it reads or writes and for " ..
      "64 multiplications of a product), the same on every machine; seconds; depth of nested " ..
      "configs. Over them an op raises, and so does the next: catching it is of no use. Of an " ..
      "engine of the script's own." },
    { "pf.seed", "seed: integer", "", "Restarts everything random at this seed." },
    { "pf.memory", "", "pf.Memory", "{live, peak} in bytes; prints as text." },
    { "pf.reset_peak", "", "", "The highest mark begins anew at what is held now." },
    { "pf.info", "", "table", "{version, threads, cpu, blas, seed, live, peak}." },
    { "pf.clock", "", "number", "Monotonic seconds." },
    { "pf.interrupted", "", "boolean",
      "True once SIGINT (Ctrl-C), SIGTERM or SIGHUP came. A script that asks gets the first one " ..
      "for itself; the second stops the engine and the script." },
    { "pf.exit", "code: integer, message?: string", "",
      "Ends the script with an exit code, 0 to 255, and the message on stderr." },
    { "pf.sorted", "t: table", "fun(): any, any",
      "pairs(t) in a stable order: numbers, then texts." },
    { "pf.kind", "value: any", "string", "\"tensor\", \"module\", \"state\" ... or Lua's type." },
    { "pf.describe", "", "table",
      "What the engine has, as data: {ops, layers, kernel = {options}, maps, attention, " ..
      "patterns, optimizers, schedules}, lists of rows with a name (layers: type) and a doc. " ..
      "One table for all who ask, as its parts below: to be read." },
    { "pf.ops", "", "table[]", "Its ops." },
    { "pf.layers", "", "table[]", "Its layers." },
    { "pf.kernels", "", "table", "{maps, options}: what a kernel can be." },
    { "pf.kinds", "", "table[]",
      "The kinds of attention: {name, doc, takes_kernel, edges (it reads those of a graph), " ..
      "streams, state_grows, state_slides (it grows up to a window and no further), carries (an " ..
      "exit state), trains_in_parts, tells_weights, auto (attention \"auto\" may choose it), " ..
      "table (what a layer holds to tell rooms by), options}." },
    { "pf.patterns", "", "table[]",
      "The rules of patterns: {name, doc, causal, full (it has such a form), by_head (heads " ..
      "differ), buckets (it goes by bucket numbers), lists (pf.pattern.rows and its like), " ..
      "options}." },
    { "pf.schedules", "", "table[]", "Its schedules of the learning rate: {name, doc, options}." },
    { "pf.optimizers", "", "table[]",
      "Its optimizers: {name, doc, options}; the first is meant where none is named. Options, " ..
      "here and of the others, are {name, kind, default (a text), choices, doc, required}." },
    { "pf.bench_gemm",
      "m: integer, n: integer, k: integer, ta?: boolean, tb?: boolean, repeats?: integer",
      "number",
      "Median seconds of one matrix product on one thread." },
    { "pf.term.isatty", "fd?: integer", "boolean", "Is the descriptor (2) a terminal?" },
    { "pf.term.width", "fd?: integer", "integer",
      "Columns; COLUMNS or 80 where there is no terminal." },
    { "pf.term.colour", "fd?: integer", "boolean",
      "May escapes be written there? (NO_COLOR; TERM dumb or not set)" },
    { "pf.term.gone", "fd: integer", "boolean",
      "Is it a pipe or socket that nobody reads any more?" },
    { "pf.term.plain", "text: string, lines?: boolean", "string",
      "The text with '?' for control characters and for what is no UTF-8. lines: it may have "
      .. "several, and tabs." },
  },
  {
    id = "tensors", title = "Tensors",
    { "pf.tensor", "values: number|table, options?: pf.DtypeOptions", "pf.Tensor",
      "From a number or nested lists. A number that the dtype cannot hold (f32: beyond 3.4e38) is "
      .. "refused, here and wherever one is given or set; math.huge is infinity." },
    { "pf.zeros", "...: integer|integer[]|pf.DtypeOptions", "pf.Tensor",
      "zeros(2, 3), zeros({2, 3}), options last: zeros(2, {dtype = \"i32\"})." },
    { "pf.ones", "...: integer|integer[]|pf.DtypeOptions", "pf.Tensor", "Likewise." },
    { "pf.full", "sizes: integer[], value: number, options?: pf.DtypeOptions", "pf.Tensor",
      "Every element is `value`." },
    { "pf.rand", "...: integer|integer[]", "pf.Tensor",
      "Uniform in (0, 1); a new stream each call." },
    { "pf.randn", "...: integer|integer[]", "pf.Tensor", "Standard normal." },
    { "pf.arange", "n: integer, options?: pf.DtypeOptions", "pf.Tensor", "0 .. n-1." },
    { "pf.linspace", "first: number, last: number, n: integer", "pf.Tensor",
      "n numbers at equal steps, both ends among them." },
    { "pf.eye", "n: integer, m?: integer|pf.DtypeOptions, options?: pf.DtypeOptions", "pf.Tensor",
      "(n, m) with 1 on the diagonal; m is n where it is not given." },
    { "pf.randint", "low: integer, high: integer, ...: integer|integer[]", "pf.Tensor",
      "Whole numbers (i32) from low to high, both among them as in math.random; a new stream " ..
      "each call. randint(1, 6, 2, 3) or randint(1, 6, {2, 3})." },
    { "pf.randperm", "n: integer", "pf.Tensor",
      "The positions 1 .. n in a random order (i32): t:index_select(1, pf.randperm(#t)) mixes " ..
      "rows." },
    { "pf.frombytes", "bytes: string, dtype: string, shape: integer[], options?: table",
      "pf.Tensor",
      "The elements of a string, row-major: u8, i8, u16, i16, u32, i32, u64 and i64 become i32, " ..
      "f16, bf16, f32 and f64 become f32; one that is too large for it is refused. Little " ..
      "endian; {big_endian = true}." },
    { "Tensor:shape", "", "integer[]", "The sizes; prints as [2, 3]." },
    { "Tensor:size", "dim: integer", "integer", "One of them." },
    { "Tensor:rank", "", "integer", "How many dimensions; 0 for a scalar." },
    { "Tensor:numel", "", "integer", "How many elements." },
    { "Tensor:dtype", "", "string", "\"f32\" or \"i32\"." },
    { "Tensor:totable", "", "number|table", "Nested lists of numbers." },
    { "Tensor:tobytes", "dtype?: string, options?: table", "string",
      "The raw elements, row-major; equal strings are equal bits. As another type (see " ..
      "frombytes) rounded to the nearest, ties to even; a number that the type does not hold, a " ..
      "fraction among whole ones or one too large, is refused. {big_endian = true}." },
    { "Tensor:item", "", "number", "The number of a tensor with one element." },
    { "Tensor:copy_", "source: pf.Tensor", "pf.Tensor",
      "Takes over another tensor's numbers (same shape)." },
    { "Tensor:fill_", "value: number", "pf.Tensor", "Sets every element." },
    { "Tensor:zero_", "", "pf.Tensor", "Sets every element to 0." },
    { "Tensor:detach", "", "pf.Tensor", "A contiguous copy outside any tape and graph." },
    { "Tensor:alive", "", "boolean", "False once its tape has closed." },
  },
  {
    id = "gradients", title = "Gradients",
    { "pf.tape", "", "pf.Tape",
      "Records what follows; `local tape <close> = pf.tape()` frees it at scope exit." },
    { "Module:backward_sliced", "batch: table, options: table", "number",
      "A training step in the memory of one slice: adds to every parameter's gradient what a " ..
      "tape's backward of model(batch):cross_entropy(batch.target) would, and returns that " ..
      "loss, with the sequence in slices one after the other: {slices = N} of them, or " ..
      "{slice_length = N} positions each. Options levels (1: the states of all slices are kept; " ..
      "2: about the square root of their number at a time, the same bits for a forward more; " ..
      "chosen by their size), training (true), step, watch, micro, counted (targets that the " ..
      "mean is of, where they are not those of the batch), carry. For causal models with linear " ..
      "attention or windows. arXiv 2012.11346." },
    { "Module:loss", "batch: table, options?: table", "pf.Tensor",
      "The mean loss of model(batch, pass) with batch.target. Of ids (i32, -1 not counted) " ..
      "cross entropy in nats, without logits that are whole where they are many: a model whose " ..
      "last layer is linear makes them a piece of rows at a time, and again in backward. Of " ..
      "numbers mean square, or with huber = delta Huber's, straight from there on, over the " ..
      "positions that the mask keeps. Of several tasks batch.targets = {TASK = tensor}, those " ..
      "that the batch has, summed by weights = {TASK = number}. What else the options have is " ..
      "the pass." },
    { "Module:losses", "batch: table, options?: table", "table<string, pf.Tensor>",
      "The same loss, each task's by its name, from one run: to be looked at, or summed in " ..
      "another way. Of a model of one task {target = its loss}." },
    { "Module:evaluate", "batch: table, options?: table", "table",
      "Losses without a gradient: {loss, tokens, right}, the sum of the cross entropy of all " ..
      "counted positions in nats, their number, and how many have their target for the " ..
      "likeliest id. A causal model with linear attention reads rows of more than 4,128 " ..
      "positions in slices, in the memory of one; {slice_length = N} says another length, carry " ..
      "what the rows go on from." },
    { "pf.recompute", "f: function, ...: pf.Tensor", "pf.Tensor",
      "f(...), of which an open tape keeps the inputs only: backward runs f a second time. The " ..
      "same gradients, less memory. f returns one tensor, of the same numbers both times, or " ..
      "backward raises; what else it makes is gone when it returns, and a tensor computed on " ..
      "the open tape must be an input." },
    { "Tape:backward", "loss: pf.Tensor, seed?: pf.Tensor|number", "",
      "Adds d loss / d leaf to every leaf's gradient. seed: the gradient of the loss, 1 where " ..
      "none is given: a tensor of its shape, or a number, as n / N of a part of a step." },
    { "Tape:close", "", "", "Ends every tensor made under it, and tapes opened after it." },
    { "Tensor:requires_grad", "yes?: boolean", "pf.Tensor",
      "Marks a leaf (or unmarks it with false) and returns it." },
    { "Tensor:wants_grad", "", "boolean", "Is it marked?" },
    { "Tensor:grad", "", "pf.Tensor?", "Its gradient, or nil." },
    { "Tensor:clear_grad", "", "pf.Tensor", "Forgets the gradient." },
    { "pf.check.gradient", "f: function, inputs: pf.Tensor|pf.Tensor[], options?: table", "table",
      "Holds the gradient of f(inputs...) against central differences along random " ..
      "directions; raises, or reports {ok, worst, inputs} with {raise = false}. Options " ..
      "tolerance (1e-2), seed (1), raise." },
    { "pf.check.finite", "what: function|pf.Module, batch?: table, pass?: table, loss?: function",
      "boolean, string?, table?",
      "Runs a step's forward and backward once more, a function's or the model's on the batch, " ..
      "and says where the first number arose that is not finite: true, or false, a message, " ..
      "and {step, layer, op, phase}. The loss is loss(logits, batch.target), or cross entropy." },
    { "pf.check.deterministic", "f: function, times?: integer", "boolean",
      "Runs f() twice (or `times` times) and compares the bits of all results; raises when " ..
      "they differ." },
    { "pf.check.streaming",
      "model: pf.Module|table, input: pf.Tensor|table, options?: table", "number?, string?",
      "Holds prefill and steps against the parallel forward, input (B, L, ...) being ids or " ..
      "what a layer takes, or a batch {input = it, NAME = tensor} of a model of several inputs; " ..
      "the largest difference, max|a - b| / max|b| of an item. " ..
      "Options prefill (half of the positions), tolerance (1e-5), raise. This and what follows: " ..
      "raises with what differs, or gives nil and that text with {raise = false}." },
    { "pf.check.bits",
      "model: pf.Module|table, input: pf.Tensor|table, options?: table", "boolean?, string?",
      "Holds the promises about bits: the same call twice, an item alone as in the batch, and " ..
      "outputs up to a position whatever comes after it. Options causal (the module's option, " ..
      "else true; false: it may look ahead), at (positions to cut at), raise." },
    { "pf.check.saved",
      "model: pf.Module|table, input: pf.Tensor|table, options?: table", "boolean?, string?",
      "Saves the model, loads it, and holds tensors, output and a state that was saved in the " ..
      "middle of the input against what they were, bit by bit. Options stream (false: it does " ..
      "not stream), raise." },
    { "pf.check.kernel", "kernel: pf.Kernel, options?: table", "table?, string?",
      "Holds attention with a kernel, full, causal and streamed, against the sum of " ..
      "phi(q).phi(k) v in double precision; the differences {full, causal, streaming}. Options " ..
      "tolerance (1e-5), length (70), head_dim (8), norm (1: |x|^2 / head_dim), seed, raise." },
  },
  {
    id = "attention", title = "Kernels and attention",
    { "pf.kernel.custom",
      "options: {map: (fun(x: pf.Tensor, side): pf.Tensor), name?: string, parameters?: table}",
      "pf.Kernel",
      "A feature map of one's own, made of ops: x (B, H, L, d), not scaled -> (B, H, L, r), a " ..
      "kernel like any other. parameters: {name = tensor} that it learns with; layers train and " ..
      "save them. name: by which a saved model finds it, open, when it is loaded; without one a " ..
      "checkpoint loads only into a model that has the kernel." },
    { "pf.kernel.exact", "", "table",
      "Exact attention, where a script of before gives a layer or a state a kernel; " ..
      "attention = \"exact\" says the same." },
    { "Kernel:name", "", "string", "Its map's name, or its own." },
    { "Kernel:features", "x: pf.Tensor, side: \"query\"|\"key\"", "pf.Tensor",
      "phi(x) (B, H, L, r) by its plain definition, without any stabiliser." },
    { "Kernel:projection", "head_dim?: integer, heads?: integer", "pf.Tensor?",
      "The projection, given or drawn from the seed; nil for a kernel without." },
    { "Kernel:settings", "head_dim?: integer", "table",
      "{features, scale, ratio, eps, tilt}: what options, preset and defaults come to for heads " ..
      "of this width. features 0: not projected." },
    { "Kernel:fit", "q: pf.Tensor, k: pf.Tensor", "pf.Kernel",
      "A softmax_plus kernel with the tilt that suits queries and keys (B, H, L, d) like these: " ..
      "A = (1 - 1/rho) / 8, rho = (sqrt((2s + d)^2 + 8 d s) - 2s - d) / (4s), s the mean " ..
      "|x + y|^2 (arXiv 2205.15317). A layer fits one a head in training, after each step." },
    { "Kernel:config", "", "table", "The options as plain data." },
    { "Kernel:predict", "sum: number, difference?: number, head_dim?: integer", "table",
      "What theory tells for one pair of a softmax kernel with |x + y|^2 = sum, |x - y|^2 = " ..
      "difference (softmax_trig asks for it): {rel_mse, coupled_rel_mse, bias}, relative to " ..
      "exp(x.y). Paper, Lemma 2." },
    { "Kernel:advise", "q: pf.Tensor, k: pf.Tensor, options?: table", "table",
      "What to change so that an estimated weight of such queries and keys, (B, H, L, d), is " ..
      "off by at most `tolerance` (0.1), root mean square, relative; prints as a table. Options " ..
      "tolerance, causal, rows (32) that are paired, limit (1024) of feature columns. Gives " ..
      "map, features, scale, tilt, qk_norm, predicted_error, meets, hopeless, current and the " ..
      "candidates; advice:kernel() makes the kernel." },
    { "pf.attention.favor",
      "q: pf.Tensor, k: pf.Tensor, v: pf.Tensor, options?: pf.AttentionOptions",
      "pf.Tensor, table?",
      "Linear attention. Options kernel (an object, a name, or options with a name), " ..
      "causal, mask (B, Lk), documents (B, L), decay (H) of a causal one: a key counts " ..
      "exp(-decay) less a token, state = true (returns the exit state too), entry (such a " ..
      "state)." },
    { "pf.attention.linear",
      "phi_q: pf.Tensor, phi_k: pf.Tensor, v: pf.Tensor, options?: pf.AttentionOptions",
      "pf.Tensor, table?",
      "The same with features given." },
    { "pf.graph", "options: table", "pf.Graph?, string?, string?",
      "A graph, made once for many steps: of lists {from =, to =}, the two ends of every edge, " ..
      "nodes counted from 1 (tables, or i32 tensors), of a file {path =} with a pair a line " ..
      "(nil, message, code), or of graphs {g1, g2, ...}, all their nodes in a row. Options " ..
      "nodes, how many (the largest number met), keys, where edges come from other nodes than " ..
      "they go to, first (1; 0 where nodes are counted from 0), loops (adds an edge from every " ..
      "node to itself that has none), both (adds the reverse of every edge that has none), " ..
      "multi (an edge may be listed twice). Fields nodes, keys, count (edges) and edges, the " ..
      "tensor; where a model reads the input edges the graph stands for it." },
    { "Graph:ends", "", "integer[], integer[]",
      "The lists from and to, in the order of the edges' numbers: given ones first, then those " ..
      "that both added, then loops." },
    { "pf.attention.graph", "q: pf.Tensor, k: pf.Tensor, v: pf.Tensor, options: table",
      "pf.Tensor",
      "Softmax attention over edges: query i sees the keys that its edges come from. Options " ..
      "graph, or from and to (with loops, both, multi, first) for this call; score: dot (the " ..
      "default, with scale), gat, LeakyReLU(q + k) of q and k of width 1, gatv2, weight . " ..
      "LeakyReLU(q + k) with weight (H, d); slope (0.2); bias (E) or (E, H), by the edges' " ..
      "numbers; dropout and draw; causal, mask, documents, limits, prefix, cu_seqlens, decay, " ..
      "which leave out edges. No edge left: 0." },
    { "pf.attention.listed", "q: pf.Tensor, k: pf.Tensor, v: pf.Tensor, options: table",
      "pf.Tensor",
      "Softmax attention over the pairs of a pattern. Options pattern, of pf.pattern; scale; " ..
      "dropout and draw; buckets (B, H, rounds, Lk) i32, of patterns that go by them; causal, " ..
      "mask, documents, limits, prefix, cu_seqlens, decay, which hold beside it. No key left: 0." },
    { "pf.attention.compare", "kernel: pf.Kernel, options?: table", "table",
      "A kernel against exact attention, a head at a time; prints as a table. Options q, k, v, " ..
      "or length (512), dim (64), heads, batch, norm (|x| and |y|, 1) and seed of random ones; " ..
      "causal; draws (32) of the projection to measure with; rows (32) queries and keys that " ..
      "are paired. Gives heads, and over all of them: error (max|a - b| / max|b| of the " ..
      "outputs), rms_error, ms, exact_ms; of softmax kernels query, key, sum (mean |x|^2, " ..
      "|y|^2, |x + y|^2), predicted_rel_mse (theory, independent rows), coupled_rel_mse (rows " ..
      "as they are drawn), median_rel_mse (at the median |x + y|^2), measured_rel_mse of the " ..
      "estimate of exp(x.y), a head also measured_deviation, its standard error, and " ..
      "bias_sigma, the mean of estimate / exp(x.y) - 1 in standard errors. Means over pairs: " ..
      "the longest pairs are most of them." },
    { "pf.attention.flops", "kind: string, shape: table", "number, number",
      "Algorithmic flops of one head and token of a kind of attention, forward and backward: " ..
      "{head_dim, value_dim (head_dim), features (columns), length (keys, 1), causal}. " ..
      "Recomputation is not counted." },
    { "pf.attention.crossover", "shape?: table", "number|table[]",
      "The length from which on linear attention is faster than exact attention, forward and " ..
      "backward, for {head_dim, features (columns), causal}: what attention \"auto\" goes by. " ..
      "Without a shape, the table that it is read from." },
    { "pf.attention.use_crossover", "source?: string|table", "true?, string?, string?",
      "Takes the table of a file that `performer bench crossover --out FILE` wrote, or such a " ..
      "table, for what is built from now on; nil: the built-in one." },
    { "pf.attention.log_partition", "q: pf.Tensor, k: pf.Tensor, options?: table", "pf.Tensor",
      "log sum_j exp(x_i.y_j), (B, H, Lq), x and y being q and k scaled: estimated in O(L m), " ..
      "or exact; for other maps log sum_j phi(q_i).phi(k_j). Differentiable. Options " ..
      "attention (a kind that tells weights), kernel (an object, a name, options with a name; " ..
      "exact scores of one's own scale: {name = \"exact\", scale = s}), causal, mask (B, Lk). " ..
      "No key in reach: -inf, gradients 0." },
    { "pf.attention.weights", "q: pf.Tensor, k: pf.Tensor, options: table",
      "pf.Tensor, pf.Tensor?, pf.Tensor?",
      "Weights of chosen queries and keys, as attention with one-hot values has them, without " ..
      "the Lq x Lk array. Options attention and kernel (as above), causal, mask, and rows " ..
      "(queries) -> (B, H, n, Lk), columns (keys) -> (B, H, Lq, n), both -> (B, H, n_rows, " ..
      "n_columns), or pairs {{query, key}, ...} -> (B, H, n). With rows alone: top = n gives " ..
      "the n largest and, as a second result, their positions from 1 (i32, 0: fewer keys are " ..
      "seen); entropy = true adds (B, H, n) in nats. O(L m) time, O(L) memory beside the " ..
      "results (exact: quadratic time). Not differentiable. Paper, C.4." },
    { "pf.attention.pointer", "q: pf.Tensor, k: pf.Tensor, options?: table", "pf.Tensor",
      "log p of pointing from query i to key j: q (B, Lq, d), k (B, Lk, d) -> (B, Lq, Lk); with " ..
      "targets (B, Lq) i32, positions from 1 or 0 for none (log p 0), -> (B, Lq) in O((Lq + Lk) " ..
      "m d). Differentiable: -mean is a loss. Options attention, kernel, mask (B, Lk), targets, " ..
      "score: estimate (default), p = phi(q).phi(k) over its sum, or exact, exp(x.y) over the " ..
      "estimated sum, for reading only: it is no distribution, and a loss of it falls without " ..
      "end. What can't be seen has log p -inf and no gradient." },
    { "pf.attention.balanced_routing",
      "q: pf.Tensor, k: pf.Tensor, v: pf.Tensor, options: table", "pf.Tensor",
      "The published form of routing (Roy et al. 2020), for full attention and for comparison: " ..
      "each centroid takes the window (L / clusters) tokens nearest to it by direction, of the " ..
      "whole sequence, and attention is inside each; a token in several clusters has the mean " ..
      "of what they give it, in none 0. q, k, v (B, H, L, d). Options centroids (H, clusters, " ..
      "d), window, mask (B, L), scale (1; not tied 1 / sqrt(d)), tied (true: keys are the same " ..
      "tokens, and one sees itself only where it sees nothing else; false: chosen by k). " ..
      "Differentiable but for the choice. pf.attention.routing is the causal one." },
    { "pf.attention.items", "options: table", "pf.Items",
      "A softmax over a set of items that is fixed between queries: keys (N, d) and, if given, " ..
      "values (N, dv); empty sets take dim and value_dim instead. One pass, then O(m (d + dv)) " ..
      "a query, whatever N. kernel: a map's or a custom one; scale = 1 in it for exp(q.k) " ..
      "itself, T^(-1/2) for exp(q.k / T), default d^(-1/4) for exp(q.k / sqrt(d)). Not " ..
      "differentiable. Paper, section 1." },
    { "Items:add", "keys: pf.Tensor, values?: pf.Tensor", "pf.Items",
      "More items; all or, when a row is not finite, none." },
    { "Items:remove", "keys: pf.Tensor, values?: pf.Tensor", "pf.Items",
      "Takes out what was added, by the same keys and values. Sums are in double and kept apart " ..
      "by size, so the rest is as exact as if the others had never been there. What was never " ..
      "added is not known as such: taking it out leaves sums of no set." },
    { "Items:log_partition", "queries: pf.Tensor", "pf.Tensor",
      "(n, d) -> (n): log of the sum over all items of exp(x.y); -inf for an empty set." },
    { "Items:expectation", "queries: pf.Tensor", "pf.Tensor",
      "(n, d) -> (n, dv): the mean of the values under the softmax; 0 for an empty set." },
    { "Items:probability", "queries: pf.Tensor, keys: pf.Tensor, options?: table", "pf.Tensor",
      "(n, d), (k, d) -> (n, k): the chance of these items, exp(x.y) over the estimated sum. " ..
      "Options estimate: exp(x.y) by the features too, then chances sum to 1 (always so for " ..
      "maps that are no softmax); log: logarithms." },
    { "Items:count", "", "integer", "Items in the set." },
    { "Items:bytes", "", "integer", "What it holds; bounded, whatever the count." },
    { "Items:close", "", "", "Frees it now." },
    { "pf.attention.state", "options: table", "pf.State",
      "A streaming state. Options attention, kernel, batch (1), heads (1; of keys and values: " ..
      "queries may have a multiple of them), head_dim, value_dim (head_dim), decay (heads). A " ..
      "custom kernel's state takes its sizes from the first keys." },
    { "pf.attention.load_state", "path: string, options?: {kernel: pf.Kernel, decay: pf.Tensor}",
      "pf.State?, string?, string?",
      "The state that state:save(path) wrote; it goes on with the same bits. The file holds " ..
      "kernel and projection; a kernel that is given must be that one, a custom one must be " ..
      "given. A file that is damaged, or of another kernel: nil, message, code." },
    { "State:prefill", "q: pf.Tensor, k: pf.Tensor, v: pf.Tensor", "pf.Tensor",
      "Attends to all seen so far and to the new keys; moves the state on." },
    { "State:step", "q: pf.Tensor, k: pf.Tensor, v: pf.Tensor", "pf.Tensor",
      "The same for one position." },
    { "State:fork", "", "pf.State", "A copy that goes its own way." },
    { "State:reorder", "rows: integer[]|pf.Tensor", "pf.State",
      "Row b becomes what row rows[b] was, in place; repeats allowed, and as many rows from " ..
      "now on as there are numbers. Returns the state." },
    { "State:append", "more: pf.State", "pf.State",
      "The sequences of another state behind its own, in place: of one model, having seen as " ..
      "many positions. Returns the state." },
    { "State:merge", "later: pf.State", "pf.State",
      "The state of one segment takes in that of the next one (seen from an empty start), in " ..
      "place. States of attention alone, with the same kernel. Returns the state." },
    { "State:bytes", "", "integer", "What it holds." },
    { "State:position", "", "integer", "Tokens seen." },
    { "State:batch", "", "integer", "Sequences." },
    { "State:save", "path: string", "true?, string?, string?",
      "As safetensors, with the kernel and a checksum; a model's with what tells the model." },
    { "State:close", "", "", "Frees it now." },
  },
  {
    id = "pattern", title = "Patterns",
    { "pf.pattern.rows", "rows: integer[][]|fun(i: integer, length: integer): integer[]",
      "pf.Pattern",
      "Of each query the keys that it sees: a list of lists of positions, or a function that " ..
      "makes the list of query i. For one length; a function is asked for the one at hand." },
    { "pf.pattern.tiles",
      "blocks: integer[][]|fun(i: integer, count: integer): integer[], options?: {block: integer}",
      "pf.Pattern",
      "The same by blocks of `block` (64) positions: of each block of queries those of keys." },
    { "pf.pattern.matrix", "matrix: pf.Tensor|number[][]", "pf.Pattern",
      "Of a matrix (queries, keys): pairs that are not 0." },
    { "Pattern:matrix", "length?: integer, question?: pf.PatternQuestion", "pf.Tensor",
      "Which keys each query sees, (length, keys) i32: 1 where it does. Lists and matrices have " ..
      "a length of their own. Options causal, keys (length), limits (length) i32: so many of " ..
      "the first keys at most, head: whose random blocks, buckets (rounds, keys) i32 of lsh and " ..
      "routing." },
    { "Pattern:count", "length?: integer, question?: pf.PatternQuestion", "integer, integer",
      "How many pairs there are; and how many tiles of at most 128 queries and 128 keys an " ..
      "attention multiplies for them." },
    { "Pattern:keys", "length?: integer, question?: pf.PatternQuestion", "pf.Tensor",
      "How many keys each query sees, (length) i32." },
    { "Pattern:svg", "length?: integer, question?: pf.PatternQuestion", "string",
      "A picture: queries downward, keys to the right; darker where more pairs are seen. Of 128 " ..
      "positions where no length is given." },
    { "Pattern:tensor", "length?: integer, keys?: integer", "pf.Tensor",
      "As ops take it (pattern_matrix, pattern_count, listed_attention); the length matters to " ..
      "lists and functions alone, which are asked once for it." },
  },
  {
    id = "nn", title = "Layers and models",
    { "pf.nn.module", "layer: table", "pf.Module",
      "A layer of one's own: tensors, child layers and forward(self, x, pass); step(self, " ..
      "x, state) if it is to stream; `name` for checkpoints; tensors under `buffers` are " ..
      "saved, not trained. inputs, begin, by_position, part, after_step, recompute and width " ..
      "stand in a table below Several inputs." },
    { "pf.nn.define", "name: string, builder: fun(children: pf.Module[]): table", "",
      "How layers called `name` are built when a checkpoint is loaded." },
    { "pf.nn.repeated", "n: integer, make: fun(i: integer): pf.Module", "pf.Module",
      "A chain of make(1) .. make(n)." },
    { "pf.nn.build", "tree: table", "pf.Module", "A module from what :tree() gave." },
    { "pf.nn.parameters_of", "value: pf.Module|table", "pf.Module",
      "A module, or any table of tensors, as what an optimizer trains." },
    { "Module:forward", "x: pf.Tensor|table, pass?: pf.Pass", "pf.Tensor",
      "model(x): x a tensor or a batch {input, documents, mask}. pass: training (default: a " ..
      "tape is open), step, mask, documents, prefix (B), watch (look at queries and keys), " ..
      "micro (which of a step's passes, from 0, where it has several: keys dropout), carry " ..
      "(what the rows go on from: model:carry); and the " ..
      "model's inputs by name, which a batch may have too." },
    { "Module:hidden", "x: pf.Tensor|table, pass?: pf.Pass, block?: integer", "pf.Tensor",
      "What the model's head reads, (B, L, D), called as model(x) is; of a model without a head " ..
      "its output. With a block, from 1, of a performer what stands behind that one." },
    { "Module:outputs", "x: pf.Tensor|table, pass?: pf.Pass", "table<string, pf.Tensor>",
      "All outputs of a model of several tasks by their names, from one run of their trunk; of " ..
      "any other {output = model(x)}." },
    { "Module:inputs", "", "{name: string, required: boolean}[]",
      "What its layers read beside x: model(x, {NAME = tensor}), stream {NAME = ...}." },
    { "Module:type", "", "string", "Its row of the layer table." },
    { "Module:options", "", "table", "Its options, defaults filled in." },
    { "Module:tree", "", "table", "{type, options, children} as plain data." },
    { "Module:children", "", "pf.Module[]", "The modules inside, in order; #model counts them." },
    { "Module:tensors", "", "table<string, pf.Tensor>", "Everything that is saved, by name." },
    { "Module:parameters", "", "pf.Tensor[], string[]",
      "The trained tensors and their names, in walk order." },
    { "Module:attention_report", "", "table[]",
      "What training last saw of the queries and keys of softmax attention (every 16th step, " ..
      "and those with watch = true in the pass), a line a head: {layer, head, map, features, " ..
      "step, query, key, sum, median, predicted_rel_mse, median_rel_mse}; prints as a table." },
    { "Module:count", "", "integer, integer", "Trained numbers, and all that are saved." },
    { "Module:freeze", "pattern: string|string[]", "integer",
      "Parameters whose names fit take no gradient from now on, and optimizers made afterwards " ..
      "keep nothing of them; saved with the model. How many fit. `*` stands for any run and `?` " ..
      "for one character of the whole name; without them a pattern is a run of whole parts " ..
      "(\"embedding\", \"blocks.1\", \"mlp.up\")." },
    { "Module:unfreeze", "pattern?: string|string[]", "integer",
      "The other way; nothing: all of them." },
    { "Module:adapt", "options?: {match: string|string[], rank: integer, scale: number}",
      "integer",
      "Low-rank adapters beside the linear layers whose names fit match (those of attention and " ..
      "mlp): y = x W^T + scale (x A^T) B^T, rank 8, scale 1. B begins at 0, so that nothing " ..
      "changes; all but adapters is frozen. How many were made. Saved with the model. arXiv " ..
      "2106.09685." },
    { "Module:merge", "", "integer",
      "Makes every adapter a part of its weight; the outputs are the same to rounding, and what " ..
      "was frozen stays so. How many there were." },
    { "Module:clear_grad", "", "", "Forgets every gradient." },
    { "Module:after_step", "step: integer", "integer",
      "What opt:step does last: draws the projections that are due at `step`, and counts them, " ..
      "and moves tilts." },
    { "Module:state", "options?: {batch: integer}", "pf.State",
      "The memory for streaming `batch` sequences; beside `batch` the model's inputs by name." },
    { "Module:carry", "options?: {batch: integer, keep: integer, form: string}", "pf.State",
      "What rows go on from that are stretches of longer ones, `batch` side by side: the option " ..
      "carry of model(...), loss, backward_sliced and evaluate. Each call begins where the one " ..
      "before ended and moves it on, without its gradient; where a row's first document is " ..
      "another than the last one before it, it begins anew. keep: of windows, so many keys and " ..
      "values of the rows before (as many as the window sees); form = \"rows\": the inputs of " ..
      "their layers, of which these are made again by the weights as they are then. It forks " ..
      "and is saved as other states; prefill and step are not for it. arXiv 1901.02860." },
    { "Module:prefill", "x: pf.Tensor, state: pf.State", "pf.Tensor",
      "Many positions at once, (B, L); moves the state on." },
    { "Module:step", "x: pf.Tensor, state: pf.State", "pf.Tensor", "One position, (B)." },
    { "Module:load_state", "path: string", "pf.State?, string?, string?",
      "What state:save(path) wrote with this model and these weights." },
    { "Module:stream", "options?: {batch: integer}", "pf.Stream",
      "A stream of tokens; with batch = n, of n sequences in step; beside `batch` the model's " ..
      "inputs by name." },
    { "Module:load_stream", "path: string", "pf.Stream?, string?, string?",
      "What stream:save(path) wrote with this model and these weights; it goes on with the same " ..
      "bits." },
    { "Module:generate", "options: pf.GenerateOptions", "string|pf.Tensor|integer[]",
      "Samples after a prompt and gives the new tokens in the prompt's form. Options " ..
      "prompt, tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed, tokenizer, " ..
      "stop, allow, each(id). min_p: least share of the likeliest's probability (arXiv " ..
      "2407.01082). repetition_penalty: a logit is divided by it, below 0 multiplied, once the " ..
      "token was read (CTRL, arXiv 1909.05858). stop: " ..
      "what ends the text and is no part of it, an id, a text (with a tokenizer), or a list of " ..
      "them; a token that may be the beginning of a text waits for each." },
    { "Module:longest", "", "number",
      "Tokens that a sequence may have: the positions of a learned table, or math.huge." },
    { "Stream:feed", "ids: pf.Tensor|integer[]|integer[][]", "pf.Stream",
      "Reads a prompt; of a batch, (batch, L) ids." },
    { "Stream:next", "token: integer|integer[], sampling?: pf.Sampling", "integer|integer[]",
      "Feeds a token and samples the next one; of a batch, a list of them." },
    { "Stream:sample", "sampling?: pf.Sampling", "integer|integer[]",
      "Samples from the logits that stand; of a batch, a list." },
    { "Stream:take", "token: integer, n: integer, sampling?: pf.Sampling", "integer[]",
      "n times next." },
    { "Stream:allow", "ids?: pf.Tensor|integer[]", "",
      "Only these are sampled from now on; nothing: all." },
    { "Stream:logits", "", "pf.Tensor",
      "A copy of the logits that stand: (vocab), of a batch (batch, vocab)." },
    { "Stream:fork", "", "pf.Stream", "A copy that goes its own way." },
    { "Stream:reorder", "rows: integer[]|pf.Tensor", "pf.Stream",
      "Row b becomes what row rows[b] was, in place, as state:reorder does." },
    { "Stream:save", "path: string", "true?, string?, string?",
      "State and logits as safetensors, for model:load_stream." },
    { "Stream:bytes", "", "integer", "What its state holds." },
    { "Stream:position", "", "integer", "Tokens fed, to each sequence." },
    { "Stream:batch", "", "integer", "Sequences." },
    { "Stream:close", "", "", "Frees it now." },
    { "Module:serve", "options?: {capacity: integer, slice: integer}", "pf.Serving",
      "A running batch (continuous batching): sequences join it and leave it between steps, " ..
      "each at its own position, and each has bit for bit what a stream of its own gives. " ..
      "Options capacity (sequences at a time; none: no bound), slice (1024; prompt tokens that " ..
      "a step takes at most)." },
    { "Serving:join", "options: table", "integer",
      "A sequence more; its id. Options prompt (ids, or a text with a tokenizer) or stream " ..
      "(fed; a copy goes on), tokens (it ends after so many), stop (ids, or texts of one " ..
      "token, that end it), allow, temperature, top_k, top_p, min_p, repetition_penalty, " ..
      "seed, tokenizer, and the model's inputs by name." },
    { "Serving:step", "", "pf.Served[], integer",
      "Moves all on by a token, but those whose prompt still waits: what was made, and how many " ..
      "sequences go on. All or nothing; what fails of one sequence alone ends that one, with " ..
      "message and code." },
    { "Serving:leave", "id: integer", "",
      "It is gone, whether it has ended or not; until then it holds its place." },
    { "Serving:fork", "id: integer", "pf.Stream",
      "A stream that stands where the sequence stands; its last token has not been fed yet." },
    { "Serving:sequence", "id: integer", "pf.SequenceInfo",
      "Where it stands: position (tokens read), waiting (of its prompt), tokens (made), last, " ..
      "bytes, ended." },
    { "Serving:logits", "id: integer", "pf.Tensor", "Those of its next token, (vocab)." },
    { "Serving:allow", "id: integer, ids?: pf.Tensor|integer[]", "",
      "Only these are drawn for it from now on; nothing: all." },
    { "Serving:sampling", "id: integer, sampling: pf.Sampling", "",
      "How it draws from its next token on." },
    { "Serving:count", "", "integer", "Sequences, ended ones among them." },
    { "Serving:bytes", "", "integer", "What the model remembers of all." },
    { "Serving:close", "", "", "Frees it now." },
  },
  {
    id = "training", title = "Training",
    { "Optimizer:step", "options?: {lr: number, clip: number}", "number, integer",
      "One step, clears the gradients, redraws the kernels that are due; the gradient's " ..
      "norm before clipping, and how many were drawn." },
    { "Optimizer:steps", "", "integer", "Steps so far." },
    { "Optimizer:model", "", "pf.Module", "What it trains." },
    { "Optimizer:close", "", "", "Frees it now." },
    { "Optimizer:averaged", "f: function, ...: any", "any",
      "f(...) with the averages of the weights (option ema) in the model, and the weights back " ..
      "however it ends; what f gives." },
    { "Optimizer:use_average", "yes: boolean", "",
      "The averages into the model, or the weights back. Between the two the optimizer neither " ..
      "steps nor is saved." },
    { "Optimizer:has_average", "", "boolean", "Was it made with ema?" },
    { "Optimizer:set_lanes", "lanes: integer", "",
      "A step's batch in so many parts, whose gradients are added as a fixed tree: the same " ..
      "bits on 1 to so many ranks (pf.ranks). 1 with one rank: none." },
    { "Optimizer:backward_segments", "batch: table, options: table", "number",
      "The backward of rows that go over the ranks in segments: options segments (as many as " ..
      "the optimizer has lanes), chain (a segment waits for the one before; else a scan of " ..
      "states), training (true), step, watch, micro, counted. The batch is of whole rows, the " ..
      "same on every rank; the mean loss of its targets. It folds the lanes." },
    { "Optimizer:fold", "", "",
      "What has gathered is the gradient of this rank's next lane; a step comes when all are " ..
      "folded." },
    { "Optimizer:overlap", "", "",
      "Said before the last backward of this rank's last lane: what that completes travels to " ..
      "the other ranks meanwhile, instead of at the step. The bits are the same; with one rank " ..
      "it is nothing. From there to the step gradients are not to be looked at or changed." },
  },
  {
    id = "ranks", title = "Ranks",
    { "pf.ranks.open", "options?: {timeout: number, file: string}", "pf.Ranks?, string?, string?",
      "The ranks that mpirun or Slurm has started, or one: {rank (from 0), size, local_rank, " ..
      "local_size, transport, hosts, warnings (what of them costs time or bits)}. timeout (60): " ..
      "seconds that one is waited for; file: the plugin, by itself MPI's. Every rank calls the " ..
      "same methods in the same order; what fails on one raises on all." },
    { "pf.ranks.launched", "", "integer, integer",
      "How many ranks a launcher has started (0: none has), and which one this is: before they " ..
      "are opened." },
    { "Ranks:first", "", "boolean", "Is this rank 0, which writes and speaks?" },
    { "Ranks:lanes", "lanes: integer", "fun(): integer?, boolean?",
      "for lane, last in ranks:lanes(n): those of n lanes, from 1, that are this rank's, and " ..
      "whether it is the last of them." },
    { "Ranks:wait", "", "", "Waits until all are here." },
    { "Ranks:any", "flag: boolean, ...: boolean", "boolean, ...",
      "true where any rank says true; of several flags, each." },
    { "Ranks:sum", "number: number, ...: number", "number, ...",
      "Sums over all ranks, in their order; several numbers give several sums." },
    { "Ranks:most", "number: number", "integer, number",
      "The rank that has the largest number, and that." },
    { "Ranks:collect", "value: any", "any[]", "What each rank has, plain data, in order." },
    { "Ranks:collect_bytes", "text: string", "string[]", "The texts of all ranks, in order." },
    { "Ranks:share", "value: any, from?: integer", "any",
      "What rank `from` (0) has: plain data; of a tensor or a model the numbers, in place." },
    { "Ranks:share_bytes", "bytes?: string, from?: integer", "string",
      "The text that rank `from` (0) has, whatever the others give." },
    { "Ranks:share_file", "path?: string, to?: string, from?: integer", "",
      "The file `path` of rank `from` (0) becomes the file `to` of all others, which may be in " ..
      "memory: of gigabytes only pieces are copied." },
    { "Ranks:settle", "message: string", "boolean, string?",
      "Says that this rank has failed, at whatever the others are. Do all know, so that the " ..
      "ranks can close, and the message that all have." },
    { "Ranks:abort", "code?: integer", "", "Ends every rank at once with the code (75)." },
    { "Ranks:waited", "", "number", "Seconds that this rank has waited for others so far." },
    { "Ranks:lost", "", "boolean", "Has the talk ended, since a rank was lost or out of step?" },
    { "Ranks:host", "rank?: integer", "string?", "The machine that a rank is on." },
    { "Ranks:patience", "seconds: number", "",
      "Another rank is about to work alone: a wait lasts so long at least; 0: as opened." },
    { "Ranks:at", "step: integer", "", "What messages call the time." },
    { "Ranks:close", "", "", "All ranks come here; a program's end does it by itself." },
  },
  {
    id = "data", title = "Data",
    { "pf.data.open", "options: table|string", "pf.Data?, string?, string?",
      "FASTA or text from a file, a pipe or \"-\", the standard input, or a list of these. " ..
      "Options path, or bytes (those of one file, as a string), valid, format, length, " ..
      "skip_bad, unique, longest, split, identity, valid_fraction, min_tokens, seed, window." },
    { "pf.data.fasta", "options: table|string", "pf.Data?, string?, string?",
      "The same, as FASTA." },
    { "pf.data.text", "options: table|string", "pf.Data?, string?, string?",
      "The same, as text." },
    { "pf.data.shard", "options: table", "pf.Data?, string?, string?",
      "Makes shards of files of any size in the folder `out`, and opens them. Options path, " ..
      "out, valid, format, skip_bad, unique, longest, split, valid_fraction, block." },
    { "pf.data.shards", "options: table|string", "pf.Data?, string?, string?",
      "Opens a folder of shards: options path, length, window, min_tokens, seed." },
    { "pf.data.kind", "path: string", "string?, string?, string?",
      "\"fasta\" or \"text\", as the file would be read. A pipe is read once: open it, and ask " ..
      "data:info().format." },
    { "Data:info", "split?: string", "table",
      "{documents, duplicates, tokens, rows, format, tokenizer} of train (default), valid " ..
      "or all; of the whole {checksum, skipped, skips, once, files, shared, shards, " ..
      "clusters, block}: a text that is equal for equal tokens in equal documents in equal " ..
      "order, how many records were left out, the first of them and why, whether it can't " ..
      "be opened again, how many files there were, what stands in `valid` and in `path` as " ..
      "well, whether they are shards, how many clusters a split by homology found, and how " ..
      "many tokens a block of shards has whose rows are others than those of the same data " ..
      "in memory (else 0)." },
    { "Data:lay", "length: integer", "pf.Data",
      "The same data in rows of another length." },
    { "Data:batches", "options?: table", "fun(): integer, pf.Batch",
      "for step, batch in ...: options size, steps, seed, first, split, masked, stream (row b " ..
      "of a batch goes on where row b of the batch before ended: each is an equal share of the " ..
      "split, and a document has one number in all batches of a pass), rows ({first, last} of " ..
      "such a batch alone: those of a lane)." },
    { "Data:batch", "options?: table", "pf.Batch",
      "One of them: index (from 1), size, split, masked, seed, stream, rows." },
    { "Data:document", "position: integer, split?: string", "pf.Tensor, string",
      "The ids of one document with begin and end, and its name." },
    { "Data:identity", "options?: {sample: integer}", "table",
      "{sequences, unrelated, mean, median, histogram} of proteins in memory: the identity of " ..
      "sequences held out (sample of 1000) to the nearest training sequence, as equal residues " ..
      "over the length of the shorter; 10 bars from 0, 0.1 ... 0.9 on." },
    { "Data:counts", "split?: string", "table",
      "{unigram, bigram}; the count of token id stands at id + 1." },
    { "Data:tokenizer", "", "pf.Tokenizer", "What it was read with." },
    { "Data:close", "", "", "Frees it now." },
    { "pf.tokenizer.byte", "", "pf.Tokenizer", "Bytes, 256 tokens." },
    { "pf.tokenizer.protein", "", "pf.Tokenizer", "Amino acids with begin, end, mask, pad." },
    { "pf.tokenizer.llama2c", "path: string", "pf.Tokenizer?, string?, string?",
      "The byte-pair vocabulary of a llama2.c model, from its tokenizer.bin; encode gives no " ..
      "begin." },
    { "Tokenizer:encode", "text: string", "pf.Tensor?, string?, string?", "The ids of a text." },
    { "Tokenizer:decode", "ids: pf.Tensor|integer[]", "string", "The text of ids." },
    { "Tokenizer:size", "", "integer", "Tokens in the vocabulary." },
    { "Tokenizer:special", "name: string", "integer?",
      "The id of begin, end, mask, pad or unknown." },
  },
  {
    id = "files", title = "Files and JSON",
    { "pf.save",
      "path: string, tensors: table<string, pf.Tensor>|pf.Module|pf.Tensor, metadata?: table",
      "true?, string?, string?",
      "As safetensors; where the path ends in .npz as that, and one tensor in .npy, both " ..
      "without metadata." },
    { "pf.npy.load", "source: string|table", "pf.Tensor|table|nil, string?, string?",
      "The array of a .npy file, or of a .npz {name = tensor}; of a path, or {bytes = string}. " ..
      "Booleans and whole numbers become i32, floating point f32 (see frombytes); any order of " ..
      "bytes and of rows, entries stored or deflated. nil, message, code." },
    { "pf.npy.save", "path: string, tensors: pf.Tensor|table, options?: table",
      "true?, string?, string?",
      "A tensor as .npy, or {name = tensor} as .npz. Options dtype (as tobytes has it; its own " ..
      "if not given), of .npz compress (false). true, or nil, message, code." },
    { "pf.load", "source: string|table", "table|pf.Tensor|nil, table|string, string?",
      "{name = tensor}, and the metadata, of a safetensors or .npz file; of a .npy its tensor. " ..
      "A path, by its end, or bytes: {bytes = string}." },
    { "pf.file.read", "path: string", "string?, string?, string?",
      "All bytes of a file, by the engine's access to files. Paths that begin with \"memory:\" " ..
      "name files and folders in the engine's memory and budget, in every call that takes a " ..
      "path: pf.save(\"memory:x\", t), then pf.file.read \"memory:x\", gives a file as a " ..
      "string." },
    { "pf.file.write", "path: string, bytes: string", "true?, string?, string?",
      "A file with these bytes, in one step: written beside, synced, renamed." },
    { "pf.file.size", "path: string", "integer?, string?, string?", "How many bytes it has." },
    { "pf.file.list", "path: string", "string[]?, string?, string?",
      "The names in a folder, sorted." },
    { "pf.file.make_folder", "path: string", "true?, string?, string?",
      "With those above it; it may be there." },
    { "pf.file.remove", "path: string", "true?, string?, string?",
      "A file, or a folder with all that is in it." },
    { "pf.inspect", "path: string", "table?, string?, string?",
      "{tensors, metadata, bytes} without reading the data." },
    { "pf.weights.load",
      "model: pf.Module, source: string|table|pf.Module, options?: table",
      "table?, string?, string?",
      "Fills a model from a safetensors file, a run or checkpoint folder, another model or " ..
      "{name = tensor}. Options map (a table {[\"model's name\"] = \"name\" | {\"q\", \"k\", " ..
      "\"v\"}, one after the other | function(source) -> tensor | false, which leaves it; a " ..
      "function(source, model) -> {model's name = tensor}; or a scheme), strict (true: all " ..
      "parameters and nothing else; false: what fits), buffers (true; false: projections and " ..
      "what else the model made by itself stay). Gives {loaded, kept, missing, unexpected, " ..
      "misshapen}, the last three with shapes; nil, message, code where it is refused, and " ..
      "then nothing has changed." },
    { "pf.weights.open", "path: string, options?: table",
      "pf.Module?, table|string, string?",
      "An nn.performer with sizes and numbers of another program's model, in a folder with " ..
      "config.json and model.safetensors; also its report, and the scheme. Options scheme " ..
      "(else by the tensors' names), config (a table or path), model (options of nn.performer " ..
      "over those of the config: attention is exact where none is given)." },
    { "pf.weights.schemes", "", "string[]",
      "The names of the schemes: llama2c, gpt2 (also minGPT's), bert, albert." },
    { "pf.checkpoint.save", "dir: string, parts: table", "string?, string?, string?",
      "Saves {model, optimizer, carried, state, tokenizer, step, keep} to dir/step-N and " ..
      "returns that path. carried: what model:carry gave, for pf.checkpoint.carried. step: the " ..
      "optimizer's, where none is given. keep: so many of the newest that this run wrote, and " ..
      "BEST's (0: all)." },
    { "pf.checkpoint.carried", "dir: string, model: pf.Module", "pf.State?, string?, string?",
      "What the rows of a run go on from, as it was saved, for the model that load gave; nil " ..
      "where the checkpoint has none." },
    { "pf.checkpoint.load", "dir: string, into?: table", "table?, string?, string?",
      "{model, optimizer, state, tokenizer}. into: {model, optimizer} to load into what is " ..
      "there, or {optimizer = false}. A tokenizer that was saved by name comes back as its " ..
      "name, as train has it, and else as a tokenizer; pf.tokenizer[name]() is one." },
    { "pf.checkpoint.model", "dir: string, options: table?", "pf.Module?, string?, string?",
      "The model alone. Option `mapped`: its parameters stay where they lie in the file, only " ..
      "read, one copy for all processes that map them; adapters beside them can be trained. The " ..
      "file must stay as it is as long as the model lives." },
    { "pf.checkpoint.save_model", "dir: string, parts: table", "true?, string?, string?",
      "A folder to be shipped, dir itself: {model, tokenizer} as config.json, " ..
      "model.safetensors, tokenizer.json and manifest.json. Commands and hosts load it to run " ..
      "the model; training can begin from it (train --init), not go on. Where dir is there it " ..
      "must hold nothing." },
    { "pf.checkpoint.hold", "dir: string", "true?, string?, string?",
      "Makes the run folder and keeps other writers out of it until this process ends: a second " ..
      "hold, or a save from elsewhere, gets nil, message. Saving needs no hold." },
    { "pf.checkpoint.mark", "dir: string, mark: string, step: integer", "true?, string?, string?",
      "Writes the small file (\"BEST\") that names step-N." },
    { "pf.json.encode", "value: any, options?: {indent: boolean}", "string",
      "Plain data as JSON, keys sorted." },
    { "pf.json.decode", "text: string", "any, string?, string?",
      "JSON as plain data; null is pf.json.null." },
    { "pf.json.list", "t?: table", "table",
      "Marks a list, so that an empty one is written as []." },
  },
}
