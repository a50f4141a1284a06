--- kit/bench_attention.lua: kinds of attention at one length, forward and forward + backward, in
-- turns with each other and with the yardstick, a large matrix product. What must hold: every
-- share and ratio is taken within a turn, so that a busy machine meets both its sides.
local pf = require "performer"
local tools = require "kit.bench_tools"

local bench_attention = {}

--- q, k and v for all, as leaves and plain, and the gradient of the output; `bytes` of them and of
-- the gradients of q, k and v.
local function rows_of(options, L)
  local B, H, d = options.batch, options.heads, options.head_dim
  local rows = { bytes = 7 * 4 * B * H * L * d, plain = {}, seed = pf.randn(B, H, L, d) }
  for i = 1, 3 do
    rows[i] = pf.randn(B, H, L, d):requires_grad()
    rows.plain[i] = rows[i]:detach()
  end
  return rows
end

--- The two calls that are timed; `run.peak`: bytes that forward + backward held at most, rows and
-- gradients included.
local function run_of(line, options, rows)
  local run = {}
  local call = tools.attention_call(line.which, options, line.causal)
  function run.forward()
    local tape <close> = pf.tape() -- luacheck: ignore tape
    call(table.unpack(rows.plain))
  end
  function run.both()
    collectgarbage()
    local live = pf.memory().live
    pf.reset_peak()
    local tape <close> = pf.tape()
    tape:backward(call(rows[1], rows[2], rows[3]), rows.seed)
    -- The first call makes the gradients and what the engine works in.
    run.peak = run.peak and math.max(run.peak, pf.memory().peak - live + rows.bytes) or 0
  end
  return run
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

--- Bytes that kind `which` saves for the backward: what grows with the length. The tape's own
-- bookkeeping, a few KiB at any length, is what the same call holds at one position beyond that
-- position's rows.
function bench_attention.bytes_saved(which, options, L)
  local call = tools.attention_call(which, options, options.causal)
  bytes_held(call, options, 1) -- a kernel draws its projection at the first call
  local few = bytes_held(call, options, 1)
  local rows = 4 * options.batch * options.heads * (4 * options.head_dim + 2)
  return bytes_held(call, options, L) - math.max(0, few - rows)
end

--- Where the same kind stands without causality.
local function full_of(lines, line)
  for i, other in ipairs(lines) do
    if other.which == line.which and not other.causal then return i end
  end
end

--- Speed of line i, whose calls are functions 2 i - 1 and 2 i of each turn; the yardstick is the
-- last one.
local function record_of(i, lines, runs, turns, options, L)
  local line, forward, both, yard = lines[i], 2 * i - 1, 2 * i, 2 * #lines + 1
  local seconds, tokens = tools.over(turns, forward), options.batch * L
  local flops, flops_backward = tools.attention_flops(line.which, options, L, line.causal)
  local gflop = 1e-9 * tokens * options.heads * flops
  local gflop_both = gflop + 1e-9 * tokens * options.heads * flops_backward
  local seconds_both = tools.over(turns, both)
  local function share(work, f)
    return tools.over(turns, tools.share_of_gemm(work, f, yard, options.threads))
  end
  local record = tools.shape_of(options, L, {
    which = line.which, forward_ms = 1e3 * seconds, forward_backward_ms = 1e3 * seconds_both,
    forward_us_per_token = 1e6 * seconds / tokens,
    forward_backward_us_per_token = 1e6 * seconds_both / tokens, gflops = gflop / seconds,
    gemm_gflops = tools.YARD_GFLOP / tools.over(turns, yard), bytes_peak = runs[i].peak,
    flops_per_token = options.heads * (flops + flops_backward),
    fraction_of_gemm = share(gflop, forward), fraction_of_gemm_backward = share(gflop_both, both) },
    line.causal)
  local full = line.causal and full_of(lines, line)
  if full then
    record.ratio_to_full = tools.over(turns, function(t) return t[both] / t[2 * full] end)
  end
  return record
end

--- Measures `lines`, each { which = kind, causal = boolean }, at length L: a record a line. A
-- causal line beside the same kind without has its ratio (forward + backward).
function bench_attention.measure(lines, options, L)
  local rows, runs, calls = rows_of(options, L), {}, {}
  for i, line in ipairs(lines) do
    runs[i] = run_of(line, options, rows)
    calls[2 * i - 1], calls[2 * i] = runs[i].forward, runs[i].both
  end
  calls[#calls + 1] = tools.yardstick
  local turns, records = tools.in_turns(calls, options.repeats), {}
  for i in ipairs(lines) do records[i] = record_of(i, lines, runs, turns, options, L) end
  return records
end

return bench_attention
