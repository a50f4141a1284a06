--- performer bench - speed, each figure beside what it is to be held against in the same run.
local pf = require "performer"
local cli = require "performer.cli"

local ROWS = {
  { "threads", "positive", 1, "threads" },
  { "length", "positive", nil, "sequence length L" },
  { "heads", "positive", 8, "heads H" },
  { "head-dim", "positive", 64, "head width d" },
  { "features", "positive", 256, "random features m" },
  { "batch", "positive", 1, "batch B" },
  { "kernel", "name", "softmax", "feature map of favor" },
  { "repeats", "positive", 5, "timed repetitions; the median counts" },
  { "which", { "favor", "exact", "identity" }, nil, "attention: only this one" },
  { "causal", "flag", nil, "causal attention" },
  { "json", "flag", nil, "JSON lines on stdout" },
}
local EXACT_LIMIT = 8192 -- longer exact runs take minutes

local function median(values)
  table.sort(values)
  return values[(#values + 1) // 2]
end

--- Median seconds of f after a warm-up call.
local function time(f, repeats)
  f()
  local times = {}
  for i = 1, repeats do
    local start = pf.clock()
    f()
    times[i] = pf.clock() - start
  end
  return median(times)
end

local function print_record(record, json)
  if json then
    print(pf.json.encode(record))
    return
  end
  local parts = {}
  for key, value in pf.sorted(record) do
    parts[#parts + 1] = math.type(value) == "float" and ("%s %.4g"):format(key, value)
      or ("%s %s"):format(key, tostring(value))
  end
  print(table.concat(parts, "  "))
end

local function machine(record, options)
  local info = pf.info()
  record.threads, record.cpu, record.blas = options.threads, info.cpu_name, info.blas
  return record
end

-- ---- gemm ----

local function gflops(m, n, k, ta, tb, repeats)
  return 2e-9 * m * n * k / pf.bench_gemm(m, n, k, ta, tb, repeats)
end

local function bench_gemm(options)
  for _, n in ipairs { 512, 1024, 2048 } do
    print_record(machine({ n = n, shape = "square", gflops = gflops(n, n, n, false, false, options.repeats) },
                         options), options.json)
  end
  local m, d = options.features, options.head_dim
  local shapes = {
    { "project (rows 128)", 128, m, d, false, true },
    { "read state (rows 128)", 128, d, m, false, false },
    { "grow state (rows 128)", m, d, 128, true, false },
    { "project (rows 64)", 64, m, d, false, true },
    { "inside a chunk (64)", 64, 64, m, false, true },
    { "linear 512 (rows 128)", 128, 512, 512, false, true },
  }
  for _, s in ipairs(shapes) do
    print_record(machine({ shape = s[1], m = s[2], n = s[3], k = s[4],
                           gflops = gflops(s[2], s[3], s[4], s[5], s[6], options.repeats) },
                         options), options.json)
  end
end

-- ---- attention ----

--- Algorithmic flops of one head and token, as DESIGN counts them: forward, backward.
local function attention_flops(which, options, L, r, chunk)
  local d, dv, m = options.head_dim, options.head_dim, options.features
  if which == "identity" then return 0, 0 end
  if which == "exact" then
    local pairs_seen = options.causal and (L + 1) / 2 or L
    return 4 * pairs_seen * d, 10 * pairs_seen * d
  end
  local forward, backward = 4 * m * d + 4 * r * (dv + 1), 4 * m * d + 8 * r * (dv + 1)
  if options.causal then
    forward, backward = forward + chunk * (r + dv), backward + 2 * chunk * (r + dv)
  end
  return forward, backward
end

local function attention_call(which, kernel, options)
  if which == "favor" then
    return function(q, k, v)
      return pf.attention.favor(q, k, v, { kernel = kernel, causal = options.causal or false })
    end
  elseif which == "exact" then
    return function(q, k, v) return pf.attention.exact(q, k, v, { causal = options.causal or false }) end
  end
  return pf.attention.identity
end

local function bench_one(which, options, L, peak)
  local B, H, d = options.batch, options.heads, options.head_dim
  local kernel = pf.kernel[options.kernel] { head_dim = d, features = options.features, seed = 7 }
  local call = attention_call(which, kernel, options)
  local q, k, v = pf.randn(B, H, L, d), pf.randn(B, H, L, d), pf.randn(B, H, L, d)
  local seed = pf.randn(B, H, L, d)
  local function forward()
    local tape <close> = pf.tape()
    call(q, k, v)
  end
  local forward_s = time(forward, options.repeats)
  q:requires_grad() k:requires_grad() v:requires_grad()
  local saved = 0
  local function both()
    local tape <close> = pf.tape()
    local before = pf.memory().live
    local out = call(q, k, v)
    saved = pf.memory().live - before + 3 * B * H * L * d * 4
    tape:backward(out, seed)
  end
  both() -- the gradients exist from here on
  pf.reset_peak()
  local before = pf.memory().live
  local both_s = time(both, options.repeats)
  local chunk = options.causal and 64 or 0
  local f, b = attention_flops(which, options, L, options.features, chunk)
  local rows = B * H * L
  local record = machine({
    which = which, B = B, H = H, L = L, d = d, m = options.features, C = chunk,
    causal = options.causal or false, kernel = options.kernel, forward_ms = 1e3 * forward_s,
    forward_backward_ms = 1e3 * both_s, gflops = rows * f / forward_s * 1e-9,
    gemm_gflops = peak, bytes_saved = saved, bytes_peak = pf.memory().peak - before }, options)
  local ceiling = peak * options.threads
  record.fraction_of_gemm = record.gflops / ceiling
  record.fraction_of_gemm_backward = rows * (f + b) / both_s * 1e-9 / ceiling
  print_record(record, options.json)
end

local function bench_attention(options)
  local L = options.length or 4096
  local peak = gflops(1024, 1024, 1024, false, false, options.repeats)
  for _, which in ipairs { "favor", "exact", "identity" } do
    local wanted = not options.which or options.which == which
    if wanted and (which ~= "exact" or L <= EXACT_LIMIT) then bench_one(which, options, L, peak) end
  end
end

local CASES = { gemm = bench_gemm, attention = bench_attention }

local function main()
  local parser = cli.parser("bench", "Measures speed; unset OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE first.", {
    "performer bench gemm",
    "performer bench attention --length 4096 --json",
  })
  parser:argument("case", "what to measure"):choices { "gemm", "attention" }
  local options = cli.parse(cli.add(parser, ROWS), ROWS, arg)
  pf.open { threads = options.threads }
  CASES[options.case](options)
end

main()
