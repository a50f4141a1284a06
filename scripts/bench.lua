--- performer bench - speed and accuracy, each figure beside what it is held against.
local attention = require "kit.attention"
local bench_attention = require "kit.bench_attention"
local bench_features = require "kit.bench_features"
local bench_kinds = require "kit.bench_kinds"
local bench_ranks = require "kit.bench_ranks"
local bench_report = require "kit.bench_report"
local cli = require "kit.cli"
local engine = require "kit.engine"
local model_options = require "kit.model_options"
local pf = require "performer"
local tools = require "kit.bench_tools"
local whole_file = require "kit.whole_file"

local ROWS = {
  { "threads", "positive", nil, "threads", "1; kinds, report: all" },
  { "length", "list", nil, "sequence length L, or several: 4k,64k,1M",
    "4096; train: 1024; kinds: 1k,4k,16k" },
  { "heads", "positive", 8, "heads H" },
  { "head-dim", "positive", 64, "head width d; the model is H x d wide" },
  { "features", "positive", 256, "random features m" },
  { "batch", "positive", 1, "batch B; generate: sequences that are served, beside one "
    .. "alone; ranks: rows in segments" },
  { "hidden", "positive", nil, "feed-forward width (default 4 x width)" },
  { "layers", "positive", 4, "train, generate, ranks: blocks" },
  { "vocab", "positive", 256, "train, generate, ranks: tokens in the vocabulary" },
  { "kernel", "name", "softmax", "feature map of favor", names = attention.map_names() },
  { "which", "name", nil, "attention, block, kinds: only this one: "
    .. table.concat(attention.kind_names(), ", "), names = attention.kind_names() },
  { "tokens", "positive", nil, "generate: tokens after each prompt; ranks: of a rank in a step",
    "64; ranks: 4096" },
  { "norm", "number", nil, "features: |x + y| (default 0.5, 1 and 1.5)" },
  { "draws", "positive", 400, "features: projections drawn" },
  { "out", "file", nil,
    "crossover: file for the table; kinds, ranks: file for the picture (SVG); report: folder" },
  { "repeats", "positive", 5, "timed repetitions; the median counts" },
  { "causal", "flag", nil, "causal attention" },
  { "json", "flag", nil, "JSON lines on stdout" },
}
table.move(bench_kinds.rows, 1, #bench_kinds.rows, #ROWS + 1, ROWS)
table.move(bench_ranks.rows, 1, #bench_ranks.rows, #ROWS + 1, ROWS)
table.move(model_options.attention_rows, 1, #model_options.attention_rows, #ROWS + 1, ROWS)
local LONGEST = 8192 -- that every attention is measured at: where work grows longer takes minutes
local gflops, over = tools.gflops, tools.over
local print_record, shape_of = tools.print_record, tools.shape_of

-- ---- gemm ----

local function bench_gemm(options)
  for _, n in ipairs { 512, 1024, 2048 } do
    print_record({ n = n, m = n, k = n, shape = "square",
                   gflops = gflops(n, n, n, false, false, options.repeats) }, options)
  end
  local m, d = options.features, options.head_dim
  local width = options.heads * d
  local shapes = {
    { "project (rows 128)", 128, m, d, false, true },
    { "read state (rows 128)", 128, d, m, false, false },
    { "grow state (rows 128)", m, d, 128, true, false },
    { "project (rows 64)", 64, m, d, false, true },
    { "inside a chunk (64)", 64, 64, m, false, true },
    { ("linear %d (rows 128)"):format(width), 128, width, width, false, true },
  }
  for _, s in ipairs(shapes) do
    print_record({ shape = s[1], m = s[2], n = s[3], k = s[4],
                   gflops = gflops(s[2], s[3], s[4], s[5], s[6], options.repeats) }, options)
  end
end

-- ---- attention ----

--- Does an attention end in reasonable time at this length? Beyond LONGEST a token has to cost
-- what it costs there (a window, linear attention), or all of them no more than exact attention.
local function is_bearable(which, options, L)
  return L <= LONGEST or not tools.grows(which, options, LONGEST, L)
    or tools.work(which, options, L) <= tools.GFLOP
end

--- The attentions that were asked for and are bearable.
local function wanted(options, L)
  local list = {}
  for _, which in ipairs(attention.kind_names()) do
    local asked = not options.which or options.which == which
    if asked and is_bearable(which, options, L) then
      list[#list + 1] = which
    elseif asked and options.which then
      cli.fail(2, ("bench: %s attention at --length %d is %.0f GFLOP a forward and backward, over "
        .. "%d; it is measured up to --length %d"):format(which, L, tools.work(which, options, L),
        tools.GFLOP, LONGEST))
    end
  end
  return list
end

--- Says which words about features or an attention's own do nothing for the kind that is asked for.
local function check_which(options, given)
  if options.which then
    attention.check_name("which", options.which, true)
    model_options.tell_useless(model_options.attention_rows, given, { attention = options.which },
                               "bench")
  end
  for _, word in ipairs { "kernel", "features" } do
    if given[word] and options.which and not attention.takes_kernel(options.which) then
      cli.say("bench: --%s does nothing here: %s attention takes no kernel", word, options.which)
    end
  end
end

--- The kinds at one length; causal ones beside themselves without, which is measured alone.
local function attention_at(options, L)
  local list, lines, saved = wanted(options, L), {}, {}
  for i, which in ipairs(list) do
    lines[i] = { which = which, causal = options.causal }
    saved[i] = bench_attention.bytes_saved(which, options, L)
    if options.causal then lines[#list + i] = { which = which, causal = false } end
  end
  local records = bench_attention.measure(lines, options, L)
  for i in ipairs(list) do
    records[i].bytes_saved = saved[i]
    print_record(records[i], options)
  end
end

local function bench_attention_case(options)
  for _, L in ipairs(options.lengths or { 4096 }) do
    attention_at(options, L)
    collectgarbage()
  end
end

-- ---- block ----

local function kernel_of(options)
  return { name = options.kernel, features = options.features }
end

--- A block with attention `which`: functions that run it forward and forward + backward, and
-- the peak of the latter above what stood before.
local function block_runs(which, options, x, seed)
  local block = pf.nn.block { dim = options.heads * options.head_dim, heads = options.heads,
                              head_dim = options.head_dim, hidden = options.hidden,
                              causal = options.causal, attention = which,
                              attention_options = model_options.own(which, options),
                              kernel = attention.takes_kernel(which) and kernel_of(options)
                                or nil }
  local run = { which = which, peak = 0 }
  function run.forward()
    local tape <close> = pf.tape() -- luacheck: ignore tape
    block(x, { training = true, step = 1 })
  end
  local leaf = x:detach():requires_grad()
  function run.both()
    collectgarbage()
    local before = pf.memory().live
    pf.reset_peak()
    local tape <close> = pf.tape()
    tape:backward(block(leaf, { training = true, step = 1 }), seed)
    run.peak = math.max(run.peak, pf.memory().peak - before)
  end
  return run
end

--- Each attention's block and the one with the base's, in turns.
local function bench_block_at(options, L)
  local width = options.heads * options.head_dim
  local x, seed = pf.randn(options.batch, L, width), pf.randn(options.batch, L, width)
  local list, runs, calls = wanted(options, L), {}, {}
  if options.which and options.which ~= attention.BASE then list[#list + 1] = attention.BASE end
  local base
  for i, which in ipairs(list) do
    if which == attention.BASE then base = i end
    runs[i] = block_runs(which, options, x, seed)
    calls[2 * i - 1], calls[2 * i] = runs[i].forward, runs[i].both
  end
  local turns = tools.in_turns(calls, options.repeats)
  for i, run in ipairs(runs) do
    if not options.which or run.which == options.which then
      print_record(shape_of(options, L, {
        which = run.which, D = width, hidden = options.hidden or 4 * width,
        forward_ms = 1e3 * over(turns, 2 * i - 1), forward_backward_ms = 1e3 * over(turns, 2 * i),
        ratio_to_identity = over(turns, function(t) return t[2 * i] / t[2 * base] end),
        bytes_peak = run.peak }, options.causal), options)
    end
  end
end

local function bench_block(options)
  for _, L in ipairs(options.lengths or { 4096 }) do
    bench_block_at(options, L)
    collectgarbage()
  end
end

-- ---- train ----

local function language_model(options, L, causal)
  return pf.nn.performer {
    vocab = options.vocab, dim = options.heads * options.head_dim, layers = options.layers,
    heads = options.heads, head_dim = options.head_dim, hidden = options.hidden, length = L,
    causal = causal, kernel = kernel_of(options) }
end

--- Flops a token of a training step: three products a weight of every matrix (the tied table
-- is the head's), and attention's own.
local function step_flops(model, options, L)
  local weights = 0
  for name, tensor in pairs(model:tensors()) do
    if tensor:rank() == 2 and name:match "weight$" then weights = weights + tensor:numel() end
  end
  local forward, backward = tools.attention_flops(attention.LINEAR, options, L, options.causal)
  return 6 * weights + options.layers * options.heads * (forward + backward)
end

--- A training step; returns the seconds inside the engine's calls.
local function timed_step(model, optimizer, batch, step)
  local inside = 0
  local function timed(f, ...)
    local start = pf.clock()
    local result = f(...)
    inside = inside + pf.clock() - start
    return result
  end
  do
    local tape <close> = timed(pf.tape)
    local logits = timed(model.forward, model, batch.input, { training = true, step = step })
    local loss = timed(logits.cross_entropy, logits, batch.target)
    timed(tape.backward, tape, loss)
    timed(loss.item, loss)
    timed(optimizer.step, optimizer, { lr = 1e-4, clip = 1 })
    timed(tape.close, tape)
  end
  return inside
end

local function random_ids(options, L)
  local rows = {}
  for i = 1, options.batch do
    rows[i] = {}
    for j = 1, L do rows[i][j] = (i * 7919 + j * j * 31 + j * 17) % options.vocab end
  end
  return pf.tensor(rows, { dtype = "i32" })
end

local function bench_train_at(options, L)
  local model = language_model(options, L, options.causal)
  local optimizer = pf.optim.adamw(model, { lr = 1e-4 })
  local batch = { input = random_ids(options, L), target = random_ids(options, L) }
  local step, peak, shares = 0, 0, {}
  local turns = tools.in_turns({ function()
    step = step + 1
    pf.reset_peak()
    local start = pf.clock()
    local inside = timed_step(model, optimizer, batch, step)
    local total = pf.clock() - start
    shares[step], peak = 1 - inside / total, math.max(peak, pf.memory().peak)
    return total
  end, tools.yardstick }, options.repeats)
  local seconds, flops = over(turns, 1), step_flops(model, options, L)
  local tokens = options.batch * L
  print_record(shape_of(options, L, {
    case = "train", tokens_per_s = tokens / seconds, flops_per_token = flops,
    gemm_gflops = tools.YARD_GFLOP / over(turns, 2),
    fraction_of_gemm =
      over(turns, tools.share_of_gemm(1e-9 * tokens * flops, 1, 2, options.threads)),
    lua_share = math.max(0, tools.median(shares)), step_ms = 1e3 * seconds, params = model:count(),
    layers = options.layers, bytes_peak = peak }, options.causal), options)
end

local function bench_train(options)
  for _, L in ipairs(options.lengths or { 1024 }) do
    bench_train_at(options, L)
    collectgarbage()
  end
end

-- ---- generate ----

--- Calls that read and that copy memory which no cache holds, and the bytes each moves.
local function memory_streams()
  local n = 16 << 20
  local a, b = pf.ones(n), pf.zeros(n)
  return function() return a:sum():item() end, 4 * n, function() b:copy_(a) end, 8 * n
end

local function model_bytes(model)
  local total = 0
  for _, tensor in pairs(model:tensors()) do total = total + 4 * tensor:numel() end
  return total
end

--- A stream that has read a prompt, as a call that draws the next tokens.
local function stream_after(model, options, length)
  local run = { length = length, stream = model:stream { batch = 1 } }
  run.fed = tools.seconds(function() -- in slices: a long prompt is no table of a million
    for first = 1, length, 65536 do
      local n = math.min(65536, length - first + 1)
      run.stream:feed(random_ids({ batch = 1, vocab = options.vocab }, n):reshape(-1))
    end
  end)
  local sampling = { temperature = 1, seed = 1 }
  local token = run.stream:sample(sampling)
  function run.take()
    local written = run.stream:take(token, options.tokens, sampling)
    token = written[#written]
  end
  return run
end

--- `batch` sequences that are served, each at a position of its own, in turns with a stream of as
-- many in step, which has one position and one sampling for all.
local function bench_serving(model, options, length)
  local n, sampling = options.batch, { temperature = 1, seed = 1 }
  local prompts = random_ids({ batch = n, vocab = options.vocab }, length)
  local lockstep <close> = model:stream { batch = n }
  local serving <close> = model:serve()
  lockstep:feed(prompts)
  local tokens = lockstep:sample(sampling)
  for i = 1, n do
    local prompt = prompts:slice(1, i, i):reshape(-1):slice(1, 1, math.max(1, length - i + 1))
    serving:join { prompt = prompt, temperature = 1, seed = i }
  end
  repeat until #serving:step() == n
  local turns = tools.in_turns({
    function() for _ = 1, options.tokens do tokens = lockstep:next(tokens, sampling) end end,
    function() for _ = 1, options.tokens do serving:step() end end }, options.repeats)
  print_record(shape_of(options, length, {
    case = "served", prompt = length, tokens_per_s = n * options.tokens / over(turns, 2),
    state_bytes = serving:bytes(), layers = options.layers,
    time_to_lockstep = over(turns, function(t) return t[2] / t[1] end) }, true), options, "served")
end

--- Tokens after each prompt, in turns with what memory allows: the faster of reading and
-- copying. Every token reads all weights, and reads and writes the state.
local function bench_generate(options)
  local prompts = options.lengths or { 16, 256, 1024, 4096 }
  local longest = math.max(table.unpack(prompts)) + options.tokens * (options.repeats + 2)
  local model = language_model(options, math.min(longest, 1 << 24), true)
  local read, read_bytes, copy, copy_bytes = memory_streams()
  local runs, calls = {}, { read, copy }
  for i, length in ipairs(prompts) do
    runs[i] = stream_after(model, options, length)
    calls[i + 2] = runs[i].take
  end
  local turns = tools.in_turns(calls, options.repeats)
  local function limit(t) return 1e-9 * math.max(read_bytes / t[1], copy_bytes / t[2]) end
  local weights = model_bytes(model)
  for i, run in ipairs(runs) do
    local one, moved = over(turns, i + 2) / options.tokens, weights + 2 * run.stream:bytes()
    print_record(shape_of(options, run.length, {
      case = "generate", prompt = run.length, tokens_per_s = 1 / one,
      prompt_tokens_per_s = run.length / run.fed, state_bytes = run.stream:bytes(),
      weight_bytes = weights, bandwidth_gb_s = over(turns, limit), used_gb_s = 1e-9 * moved / one,
      fraction_of_bandwidth = over(turns, function(t)
        return 1e-9 * moved * options.tokens / t[i + 2] / limit(t)
      end),
      time_to_first_prompt = over(turns, function(t) return t[i + 2] / t[3] end),
      layers = options.layers }, true), options)
    run.stream:close()
  end
  if options.batch == 1 then return end
  for _, length in ipairs(prompts) do bench_serving(model, options, length) end
end

-- ---- main ----

local CASES = { gemm = bench_gemm, attention = bench_attention_case, block = bench_block,
                train = bench_train, generate = bench_generate, features = bench_features.features,
                crossover = bench_features.crossover, report = bench_report.run,
                kinds = bench_kinds.run, ranks = bench_ranks.run }

local ALL_THREADS = { kinds = true, report = true } -- where nothing is said

--- Some machines hold OpenBLAS below what the processor can do.
local function check_environment()
  for _, name in ipairs { "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE" } do
    if os.getenv(name) then
      cli.say("bench: %s is set, OpenBLAS may be slower than the processor; measure with: env -u "
        .. "OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE performer bench ...", name)
    end
  end
end

local function main()
  local parser = cli.parser("bench", "Measures speed, each figure beside its limit.", {
    "performer bench gemm",
    "performer bench attention --length 4096 --causal --json",
    "performer bench block --length 4096 --threads 2",
    "performer bench attention --length 1k,16k,256k --which favor",
    "performer bench train --length 1024 --layers 6",
    "performer bench generate --layers 8",
    "performer bench kinds --causal --data book.txt --out kinds.svg",
    "performer bench features --features 256",
    "performer bench crossover --threads 2 --out crossover.json",
    "performer bench ranks --simulate --hosts 2,8,64 --link 1g --layers 12 --tokens 16384",
    "performer bench report --out report",
  })
  local names = {}
  for name in pf.sorted(CASES) do names[#names + 1] = name end
  cli.choose(parser:argument("case", "what to measure: " .. table.concat(names, ", ")):args "?",
    "bench", names)
  local options, given = cli.parse(cli.add(parser, ROWS), ROWS, arg)
  if not options.case then
    cli.fail(2, "bench: say what to measure: " .. table.concat(names, ", "))
  end
  local kernels = {}
  for i, map in ipairs(pf.kernels().maps) do kernels[i] = map.name end
  cli.check_name("kernel", options.kernel, kernels)
  options.causal = options.causal or false
  check_which(options, given)
  options.lengths = options.length and tools.lengths(options.length)
  options.tokens = options.tokens or (options.case == "ranks" and 4096 or 64)
  if not options.threads and not ALL_THREADS[options.case] then options.threads = 1 end
  if options.out and options.case == "kinds" then
    whole_file.check_suffix("bench", options.out, "svg")
  end
  engine.open { threads = options.threads }
  options.threads = pf.info().threads
  check_environment()
  CASES[options.case](options, given)
end

cli.alone("bench", main)
