--- performer bench - speed, each figure beside what it is to be held against in the same run.
local pf = require "performer"
local cli = require "performer.cli"

local ROWS = {
  { "threads", "positive", 1, "threads" },
  { "length", "positive", nil, "sequence length L (default 4096; train: 1024)" },
  { "heads", "positive", 8, "heads H" },
  { "head-dim", "positive", 64, "head width d; the model is H x d wide" },
  { "features", "positive", 256, "random features m" },
  { "batch", "positive", 1, "batch B" },
  { "hidden", "positive", nil, "feed-forward width (default 4 x width)" },
  { "layers", "positive", 4, "train, generate: blocks" },
  { "vocab", "positive", 256, "train, generate: tokens in the vocabulary" },
  { "kernel", "name", "softmax", "feature map of favor" },
  { "which", { "favor", "exact", "identity" }, nil, "attention, block: only this one" },
  { "tokens", "positive", 64, "generate: tokens after each prompt" },
  { "norm", "number", nil, "features: |x + y| (default 0.5, 1 and 1.5)" },
  { "draws", "positive", 1000, "features: projections drawn" },
  { "repeats", "positive", 5, "timed repetitions; the median counts" },
  { "causal", "flag", nil, "causal attention" },
  { "json", "flag", nil, "JSON lines on stdout" },
}
local EXACT_LIMIT = 8192    -- longer exact runs take minutes
local CAUSAL_CHUNK = 64     -- rows of the engine's causal blocks
local GEMM_SIZE = 1024      -- what fractions of the GEMM rate refer to
local ALL = { "favor", "exact", "identity" }

-- ---- measuring ----

local function median(values)
  table.sort(values)
  return values[(#values + 1) // 2]
end

--- Median seconds of f after a warm-up call; three repetitions when they take long.
local function time(f, repeats)
  f()
  local times, total = {}, 0
  for i = 1, repeats do
    local start = pf.clock()
    f()
    times[i] = pf.clock() - start
    total = total + times[i]
    if pf.interrupted() then cli.fail(130, "bench: interrupted") end
    if i >= 3 and total > 20 then break end
  end
  return median(times)
end

local function gflops(m, n, k, ta, tb, repeats)
  return 2e-9 * m * n * k / pf.bench_gemm(m, n, k, ta, tb, repeats)
end

--- GFLOP/s of a large matrix product on one thread.
local function gemm_rate(options)
  return gflops(GEMM_SIZE, GEMM_SIZE, GEMM_SIZE, false, false, options.repeats)
end

-- ---- output ----

local FIRST = { "which", "shape", "case", "prompt", "n", "L", "m", "features", "norm" }

--- Without --json: the name of the case first, then the rest in order of the names.
local function print_record(record, options)
  local info = pf.info()
  record.threads, record.cpu, record.blas = options.threads, info.cpu_name, info.blas
  if options.json then return cli.print_json(record) end
  local parts, seen = {}, { threads = true, cpu = true, blas = true }
  local function add(key)
    if seen[key] or record[key] == nil then return end
    seen[key] = true
    local value = record[key]
    parts[#parts + 1] = math.type(value) == "float" and ("%s %.4g"):format(key, value)
      or ("%s %s"):format(key, tostring(value))
  end
  for _, key in ipairs(FIRST) do add(key) end
  for key in pf.sorted(record) do add(key) end
  cli.write(table.concat(parts, "  "), "\n")
end

--- The shape's own fields.
local function shape_of(options, L, more)
  local record = { B = options.batch, H = options.heads, L = L, d = options.head_dim,
                   m = options.features, C = options.causal and CAUSAL_CHUNK or 0,
                   causal = options.causal or false, kernel = options.kernel }
  for key, value in pairs(more) do record[key] = value end
  return record
end

-- ---- gemm ----

local function bench_gemm(options)
  for _, n in ipairs { 512, 1024, 2048 } do
    print_record({ n = n, shape = "square",
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

--- Algorithmic flops of one head and token, as DESIGN counts them: forward, backward.
local function attention_flops(which, options, L)
  local d, dv, m, r = options.head_dim, options.head_dim, options.features, options.features
  if which == "identity" then return 0, 0 end
  if which == "exact" then
    local pairs_seen = options.causal and (L + 1) / 2 or L
    return 4 * pairs_seen * d, 10 * pairs_seen * d
  end
  local forward, backward = 4 * m * d + 4 * r * (dv + 1), 4 * m * d + 8 * r * (dv + 1)
  if options.causal then
    forward, backward = forward + CAUSAL_CHUNK * (r + dv), backward + 2 * CAUSAL_CHUNK * (r + dv)
  end
  return forward, backward
end

local function attention_call(which, options)
  local causal = options.causal or false
  if which == "exact" then
    return function(q, k, v) return pf.attention.exact(q, k, v, { causal = causal }) end
  elseif which == "identity" then
    return pf.attention.identity
  end
  local kernel = pf.kernel[options.kernel] { head_dim = options.head_dim,
                                             features = options.features, seed = 7 }
  return function(q, k, v)
    return pf.attention.favor(q, k, v, { kernel = kernel, causal = causal })
  end
end

--- Bytes that live on, for the backward, after `call` on q, k, v that nobody else holds.
local function bytes_held(call, options, L)
  local B, H, d = options.batch, options.heads, options.head_dim
  local x = pf.randn(B, H, L, d):requires_grad()
  local tape <close> = pf.tape() -- luacheck: ignore tape
  collectgarbage()
  collectgarbage()
  local before = pf.memory().live
  local out = call(x:affine { scale = 1 }, x:affine { scale = 1 }, x:affine { scale = 1 })
  collectgarbage()
  collectgarbage()
  return out and pf.memory().live - before
end

--- Bytes saved for the backward: what grows with the length. The tape's own bookkeeping, a few
-- KiB at any length, is what the same call holds at one position beyond that position's rows.
local function bytes_saved(call, options, L)
  bytes_held(call, options, 1) -- a kernel draws its projection at the first call
  local few = bytes_held(call, options, 1)
  local rows = 4 * options.batch * options.heads * (4 * options.head_dim + 2)
  return bytes_held(call, options, L) - math.max(0, few - rows)
end

local function bench_attention_one(which, options, L, peak)
  local B, H, d = options.batch, options.heads, options.head_dim
  local call = attention_call(which, options)
  local saved = bytes_saved(call, options, L)
  collectgarbage()
  local before = pf.memory().live
  local q, k, v = pf.randn(B, H, L, d), pf.randn(B, H, L, d), pf.randn(B, H, L, d)
  local seed = pf.randn(B, H, L, d)
  local forward = time(function()
    local tape <close> = pf.tape() -- luacheck: ignore tape
    call(q, k, v)
  end, options.repeats)
  q:requires_grad()
  k:requires_grad()
  v:requires_grad()
  pf.reset_peak()
  local both = time(function()
    local tape <close> = pf.tape()
    tape:backward(call(q, k, v), seed)
  end, options.repeats)
  local flops_forward, flops_backward = attention_flops(which, options, L)
  local rows, ceiling = B * H * L, peak * options.threads
  local rate = rows * flops_forward / forward * 1e-9
  print_record(shape_of(options, L, {
    which = which, forward_ms = 1e3 * forward, forward_backward_ms = 1e3 * both, gflops = rate,
    gemm_gflops = peak, fraction_of_gemm = rate / ceiling,
    fraction_of_gemm_backward = rows * (flops_forward + flops_backward) / both * 1e-9 / ceiling,
    bytes_saved = saved, bytes_peak = pf.memory().peak - before }), options)
end

--- The attentions that were asked for and end in reasonable time at this length.
local function wanted(options, L)
  local list = {}
  for _, which in ipairs(ALL) do
    local asked = not options.which or options.which == which
    if asked and (which ~= "exact" or L <= EXACT_LIMIT) then list[#list + 1] = which end
  end
  if #list == 0 then
    cli.fail(2, ("bench: exact attention is measured up to --length %d"):format(EXACT_LIMIT))
  end
  return list
end

local function bench_attention(options)
  local L = options.length or 4096
  local peak = gemm_rate(options)
  for _, which in ipairs(wanted(options, L)) do bench_attention_one(which, options, L, peak) end
end

-- ---- block ----

local function kernel_of(which, options)
  if which ~= "favor" then return { name = which } end
  return { name = options.kernel, features = options.features }
end

--- Forward and forward + backward seconds of one block, and the peak above what stood.
local function time_block(which, options, L)
  local width = options.heads * options.head_dim
  collectgarbage()
  local before = pf.memory().live
  local block = pf.nn.block { dim = width, heads = options.heads, head_dim = options.head_dim,
                              hidden = options.hidden, causal = options.causal or false,
                              kernel = kernel_of(which, options) }
  local x, seed = pf.randn(options.batch, L, width), pf.randn(options.batch, L, width)
  local forward = time(function()
    local tape <close> = pf.tape() -- luacheck: ignore tape
    block(x, { training = true, step = 1 })
  end, options.repeats)
  x:requires_grad()
  pf.reset_peak()
  local both = time(function()
    local tape <close> = pf.tape()
    tape:backward(block(x, { training = true, step = 1 }), seed)
  end, options.repeats)
  return { forward = forward, both = both, peak = pf.memory().peak - before }
end

local function bench_block(options)
  local L = options.length or 4096
  local list = wanted(options, L)
  local limit = time_block("identity", options, L)
  for _, which in ipairs(list) do
    local got = which == "identity" and limit or time_block(which, options, L)
    print_record(shape_of(options, L, {
      which = which, D = options.heads * options.head_dim,
      hidden = options.hidden or 4 * options.heads * options.head_dim,
      forward_ms = 1e3 * got.forward, forward_backward_ms = 1e3 * got.both,
      ratio_to_identity = got.both / limit.both, bytes_peak = got.peak }), options)
  end
end

-- ---- train ----

local function language_model(options, L, causal)
  return pf.nn.performer {
    vocab = options.vocab, dim = options.heads * options.head_dim, layers = options.layers,
    heads = options.heads, head_dim = options.head_dim, hidden = options.hidden, length = L,
    causal = causal, kernel = kernel_of("favor", options) }
end

--- Flops a token of a training step: three products a weight of every matrix (the tied table
-- is the head's), and attention's own.
local function step_flops(model, options, L)
  local weights = 0
  for name, tensor in pairs(model:tensors()) do
    if tensor:rank() == 2 and name:match "weight$" then weights = weights + tensor:numel() end
  end
  local forward, backward = attention_flops("favor", options, L)
  return 6 * weights + options.layers * options.heads * (forward + backward)
end

--- A training step; returns the seconds inside the engine's calls.
local function timed_step(model, optimizer, batch, step)
  local inside = 0
  local function engine(f, ...)
    local start = pf.clock()
    local result = f(...)
    inside = inside + pf.clock() - start
    return result
  end
  do
    local tape <close> = engine(pf.tape)
    local logits = engine(model.forward, model, batch.input, { training = true, step = step })
    local loss = engine(logits.cross_entropy, logits, batch.target)
    engine(tape.backward, tape, loss)
    engine(loss.item, loss)
    engine(optimizer.step, optimizer, { lr = 1e-4, clip = 1 })
    engine(tape.close, tape)
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

local function bench_train(options)
  local L = options.length or 1024
  local peak = gemm_rate(options)
  local model = language_model(options, L, options.causal or false)
  local optimizer = pf.optim.adamw(model, { lr = 1e-4 })
  local batch = { input = random_ids(options, L), target = random_ids(options, L) }
  pf.reset_peak()
  local step, inside, total, shares = 0, 0, 0, {}
  local seconds = time(function()
    step = step + 1
    local start = pf.clock()
    inside = timed_step(model, optimizer, batch, step)
    total = pf.clock() - start
    shares[step] = 1 - inside / total
  end, options.repeats)
  local rate, flops = options.batch * L / seconds, step_flops(model, options, L)
  print_record(shape_of(options, L, {
    case = "train", tokens_per_s = rate, flops_per_token = flops, gemm_gflops = peak,
    fraction_of_gemm = rate * flops * 1e-9 / (peak * options.threads),
    lua_share = math.max(0, median(shares)), step_ms = 1e3 * seconds, params = model:count(),
    layers = options.layers, bytes_peak = pf.memory().peak }), options)
end

-- ---- generate ----

--- GB/s of reading or copying memory that no cache holds: the faster of the two.
local function bandwidth(options)
  local n = 16 << 20
  local a, b = pf.ones(n), pf.zeros(n)
  local copy = time(function() b:copy_(a) end, options.repeats)
  local sum = time(function() a:sum():item() end, options.repeats)
  return math.max(8e-9 * n / copy, 4e-9 * n / sum)
end

local function bench_generate(options)
  local prompts = options.length and { options.length } or { 16, 256, 1024, 4096 }
  local limit = bandwidth(options)
  collectgarbage()
  local model = language_model(options, prompts[#prompts] + options.tokens, true)
  local weights = 0
  for _, tensor in pairs(model:tensors()) do weights = weights + 4 * tensor:numel() end
  for _, length in ipairs(prompts) do
    local stream <close> = model:stream { batch = 1 }
    local ids = random_ids({ batch = 1, vocab = options.vocab }, length):reshape(-1)
    local start = pf.clock()
    stream:feed(ids)
    local fed = pf.clock() - start
    local sampling = { temperature = 1, seed = 1 }
    local token = stream:sample(sampling)
    local seconds = time(function()
      local written = stream:take(token, options.tokens, sampling)
      token = written[#written]
    end, options.repeats) / options.tokens
    -- Every token reads all weights, and reads and writes the state.
    local used = (weights + 2 * stream:bytes()) / seconds * 1e-9
    options.causal = true
    print_record(shape_of(options, length, {
      case = "generate", prompt = length, tokens_per_s = 1 / seconds,
      prompt_tokens_per_s = length / fed, state_bytes = stream:bytes(), weight_bytes = weights,
      bandwidth_gb_s = limit, used_gb_s = used, fraction_of_bandwidth = used / limit,
      layers = options.layers }), options)
  end
end

-- ---- features ----

--- A pair with |x + y| = norm, x at a right angle to y, in the scale of the map's input.
local function pair(d, norm)
  local x, y = {}, {}
  for i = 1, d do
    local height = norm / math.sqrt(d)
    x[i], y[i] = i % 2 == 0 and height or 0, i % 2 == 1 and height or 0
  end
  return x, y
end

--- The estimates of exp(sign x y), one for each draw, relative to it.
local function estimates(kernel, x, y, draws)
  local d = #x
  local xs = pf.tensor(x):reshape(1, 1, 1, d) + pf.zeros(1, draws, 1, d)
  local ys = pf.tensor(y):reshape(1, 1, 1, d) + pf.zeros(1, draws, 1, d)
  local products = (kernel:features(xs, "query") * kernel:features(ys, "key")):sum(-1)
  local exact = 0
  for i = 1, d do exact = exact + x[i] * y[i] end
  return (products:reshape(-1) * math.exp(-exact)):totable()
end

--- Mean squared error and bias (in standard errors of the mean) of estimates of 1.
local function statistics(values)
  local sum, squares = 0, 0
  for _, value in ipairs(values) do
    sum, squares = sum + value - 1, squares + (value - 1) ^ 2
  end
  local n = #values
  local mean, mse = sum / n, squares / n
  local error_of_mean = math.sqrt(math.max(mse - mean * mean, 1e-300) / n)
  return mse, mean / error_of_mean
end

--- The kernel's error at one norm: (exp(|x + y|^2) - 1) / m for independent rows.
local function bench_features_one(options, norm, orthogonal, seed)
  local d, m = options.head_dim, options.features
  local kernel = pf.kernel.softmax { head_dim = d, features = m, scale = 1, seed = seed,
                                     orthogonal = orthogonal }
  local x, y = pair(d, norm)
  local mse, bias = statistics(estimates(kernel, x, y, options.draws))
  local opposite = {}
  for i = 1, d do x[i], opposite[i] = x[i], -y[i] end
  local _, negative = statistics(estimates(kernel, x, opposite, options.draws))
  print_record({ features = m, norm = norm, d = d, kernel = options.kernel,
                 orthogonal = orthogonal, draws = options.draws,
                 predicted_rel_mse = (math.exp(norm * norm) - 1) / m, measured_rel_mse = mse,
                 bias_sigma = bias, bias_sigma_negative = negative }, options)
end

local function bench_features(options)
  if options.kernel ~= "softmax" then
    cli.fail(2, "bench: the error of the estimator is known for --kernel softmax")
  end
  local norms = options.norm and { options.norm } or { 0.5, 1.0, 1.5 }
  for i, norm in ipairs(norms) do
    for j, orthogonal in ipairs { false, true } do
      bench_features_one(options, norm, orthogonal, 2 * i + j)
      collectgarbage()
    end
  end
end

-- ---- main ----

local CASES = { gemm = bench_gemm, attention = bench_attention, block = bench_block,
                train = bench_train, generate = bench_generate, features = bench_features }

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
    "performer bench train --length 1024 --layers 4",
    "performer bench generate",
    "performer bench features --features 256",
  })
  local names = {}
  for name in pf.sorted(CASES) do names[#names + 1] = name end
  parser:argument("case", "what to measure"):choices(names)
  local options = cli.parse(cli.add(parser, ROWS), ROWS, arg)
  local kernels = {}
  for i, map in ipairs(pf.kernels().maps) do kernels[i] = map.name end
  cli.check_name("kernel", options.kernel, kernels)
  cli.try(2, pf.open, { threads = options.threads })
  check_environment()
  CASES[options.case](options)
end

cli.main(main)
