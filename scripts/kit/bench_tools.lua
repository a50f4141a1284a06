--- kit/bench_tools.lua: what the cases of `performer bench` share: timing, the attentions
-- that are compared and their algorithmic flops, and records as JSON lines or as a table.
local attention = require "kit.attention"
local cli = require "kit.cli"
local model_options = require "kit.model_options"
local pf = require "performer"

local tools = {}

tools.CAUSAL_CHUNK = 48 -- rows of the engine's causal blocks
local LONG = 20         -- seconds after which three repetitions are enough

-- ---- timing ----

function tools.median(values)
  local sorted = table.move(values, 1, #values, 1, {})
  table.sort(sorted)
  return sorted[(#sorted + 1) // 2]
end

--- Seconds of one call.
function tools.seconds(f)
  local start = pf.clock()
  f()
  return pf.clock() - start
end

--- Calls each function in turns after a warm-up call, so that whatever else the machine does
-- meets all of them alike; three turns when they take long. Returns a list of turns, each the
-- seconds of every function; a function that times itself returns them.
function tools.in_turns(functions, repeats)
  local turns, total = {}, 0
  for _, f in ipairs(functions) do f() end
  for turn = 1, repeats do
    turns[turn] = {}
    for i, f in ipairs(functions) do
      local own
      local seconds = tools.seconds(function() own = f() end)
      turns[turn][i] = own or seconds
      total = total + seconds
      if pf.interrupted() then cli.fail(130, "bench: interrupted") end
    end
    if turn >= 3 and total > LONG then break end
  end
  return turns
end

--- The median over turns of f(a turn's seconds); the median seconds of function i for a number.
-- A share or a ratio is taken within each turn, where both sides met the same machine.
function tools.over(turns, f)
  local values = {}
  for i, seconds in ipairs(turns) do
    values[i] = type(f) == "number" and seconds[f] or f(seconds)
  end
  return tools.median(values)
end

function tools.gflops(m, n, k, ta, tb, repeats)
  return 2e-9 * m * n * k / pf.bench_gemm(m, n, k, ta, tb, repeats)
end

local YARD = 1024 -- n of the yardstick, a square matrix product on one thread
tools.YARD_GFLOP = 2e-9 * YARD ^ 3

--- The yardstick once, for turns with what it judges: its seconds, without the filling.
function tools.yardstick() return pf.bench_gemm(YARD, YARD, YARD, false, false, 1) end

--- A function of a turn: the share of the yardstick's rate, on every thread, that `gflop` in the
-- seconds of function i come to. The yardstick is function `yard`.
function tools.share_of_gemm(gflop, i, yard, threads)
  return function(seconds)
    return gflop / seconds[i] / (tools.YARD_GFLOP / seconds[yard] * threads)
  end
end

-- ---- attention ----

--- Algorithmic flops of one head and token at length L: forward, backward. Recomputation is not
-- counted.
function tools.attention_flops(which, options, L, causal)
  return pf.attention.flops(which, { head_dim = options.head_dim, features = options.features,
                                     length = L, causal = causal,
                                     options = model_options.own(which, options) })
end

tools.GFLOP = 600 -- of one forward + backward; what takes more is left out

--- GFLOP of a whole forward + backward.
function tools.work(which, options, L)
  local forward, backward = tools.attention_flops(which, options, L, options.causal)
  return 1e-9 * options.batch * L * options.heads * (forward + backward)
end

--- Does a token cost more at length `long` than at `short`?
function tools.grows(which, options, short, long)
  return tools.attention_flops(which, options, long, false)
    > 1.1 * tools.attention_flops(which, options, short, false)
end

--- The attention `which` as a function of q, k and v, causal or not.
function tools.attention_call(which, options, causal)
  local call, given = pf.attention[which], model_options.own(which, options) or {}
  for name in pairs(attention.of_layers(which)) do given[name] = nil end -- which a call has none of
  given.causal = causal
  if which == attention.LINEAR then
    given.kernel = pf.kernel[options.kernel] { head_dim = options.head_dim,
                                               features = options.features, seed = 7 }
  end
  return function(q, k, v) return call(q, k, v, given) end
end

-- ---- options ----

local UNITS = { [""] = 1, k = 1024, K = 1024, M = 1024 * 1024 }

--- "4096", "4k", "1k,4k,1M" as a list of lengths; k and M are powers of 1024.
function tools.lengths(text)
  local list = {}
  for word in (text .. ","):gmatch "([^,]*)," do
    local digits, unit = word:match "^%s*(%d+)([kKM]?)%s*$"
    local length = digits and math.tointeger(tonumber(digits))
    if not length or length < 1 or length > 1 << 30 then
      cli.fail(2, ("bench: --length: '%s' is no length: give 4096, 4k, 1M or a list: 1k,4k"):format(
        word))
    end
    list[#list + 1] = length * UNITS[unit]
  end
  return list
end

-- ---- records ----

local function whole(value) return ("%d"):format(value) end
local function significant(value) return ("%.4g"):format(value) end
local function whole_of(value) return ("%.0f"):format(value) end
local function percent(value) return ("%.1f %%"):format(100 * value) end
local function ratio(value) return ("%.3f"):format(value) end

--- 1024 -> "1k": lengths as people say them.
local function length(value)
  if value >= 1 << 20 and value % (1 << 20) == 0 then return ("%dM"):format(value >> 20) end
  if value >= 1024 and value % 1024 == 0 then return ("%dk"):format(value >> 10) end
  return whole(value)
end

local function bytes(value)
  local names, i = { "B", "KiB", "MiB", "GiB" }, 1
  while value >= 1024 and i < #names do value, i = value / 1024, i + 1 end
  return (i == 1 and "%d %s" or "%.1f %s"):format(value, names[i])
end

--- Columns of the table of each case: key, heading, width, how to show it.
local TABLES = {
  gemm = { { "shape", "product", -24 }, { "m", "m", 5, whole }, { "n", "n", 5, whole },
           { "k", "k", 5, whole }, { "gflops", "GFLOP/s", 9, significant } },
  attention = { { "which", "attention", -9 }, { "L", "length", 7, length },
    { "forward_ms", "forward ms", 11, significant },
    { "forward_backward_ms", "fwd+bwd ms", 11, significant },
    { "forward_us_per_token", "fwd us/token", 13, significant },
    { "fraction_of_gemm", "of GEMM", 9, percent },
    { "fraction_of_gemm_backward", "fwd+bwd", 9, percent },
    { "ratio_to_full", "x full", 7, ratio },
    { "bytes_saved", "saved", 11, bytes }, { "bytes_peak", "peak", 11, bytes } },
  block = { { "which", "attention", -9 }, { "L", "length", 7, length },
    { "forward_ms", "forward ms", 11, significant },
    { "forward_backward_ms", "fwd+bwd ms", 11, significant },
    { "ratio_to_identity", "x identity", 11, ratio }, { "bytes_peak", "peak", 11, bytes } },
  kinds = { { "which", "attention", -9 }, { "L", "length", 7, length },
    { "forward_ms", "forward ms", 11, significant },
    { "forward_backward_ms", "fwd+bwd ms", 11, significant },
    { "forward_backward_us_per_token", "us/token", 9, significant },
    { "flops_per_token", "kflop/token", 11, function(v) return whole(v // 1000) end },
    { "fraction_of_gemm", "of GEMM", 9, percent },
    { "fraction_of_gemm_backward", "fwd+bwd", 9, percent },
    { "bytes_saved", "saved", 11, bytes }, { "bytes_peak", "peak", 11, bytes } },
  learned = { { "task", "task", -6 }, { "which", "attention", -9 }, { "L", "length", 7, length },
    { "loss", "loss", 7, ratio }, { "accuracy", "right", 8, percent },
    { "accuracy_far", "far", 8, percent }, { "train_loss", "training", 8, ratio },
    { "baseline_loss", "baseline", 8, ratio },
    { "step_ms", "step ms", 8, significant }, { "bytes_peak", "peak", 11, bytes } },
  train = { { "L", "length", 7, length }, { "layers", "layers", 6, whole },
    { "params", "parameters", 11, whole }, { "tokens_per_s", "tokens/s", 10, significant },
    { "step_ms", "step ms", 9, significant }, { "fraction_of_gemm", "of GEMM", 9, percent },
    { "lua_share", "Lua", 8, function(v) return ("%.3f %%"):format(100 * v) end },
    { "bytes_peak", "peak", 11, bytes } },
  generate = { { "prompt", "prompt", 7, length }, { "tokens_per_s", "tokens/s", 10, significant },
    { "prompt_tokens_per_s", "prompt tok/s", 13, significant },
    { "weight_bytes", "weights", 11, bytes }, { "state_bytes", "state", 11, bytes },
    { "used_gb_s", "GB/s", 7, significant }, { "bandwidth_gb_s", "machine", 8, significant },
    { "fraction_of_bandwidth", "share", 8, percent },
    { "time_to_first_prompt", "x first", 8, ratio } },
  served = { { "prompt", "prompt", 7, length }, { "B", "sequences", 9, whole },
    { "tokens_per_s", "tokens/s", 10, significant }, { "state_bytes", "states", 11, bytes },
    { "time_to_lockstep", "x in step", 9, ratio } },
  ranks = { { "way", "way", -8 }, { "sum", "sum", -8 }, { "ranks", "ranks", 6, whole },
    { "hosts", "hosts", 6, whole }, { "step_ms", "step ms", 9, significant },
    { "talk_ms", "talk ms", 9, significant }, { "efficiency", "efficiency", 10, percent },
    { "tokens_per_s", "tokens/s", 10, whole_of },
    { "bytes_per_host", "of a host", 10, bytes }, { "messages", "messages", 9, whole },
    { "formula_ms", "formula ms", 10, significant },
    { "from_formula", "off", 6, function(v) return percent(math.abs(v)) end } },
  features = { { "kernel", "kernel", -13 }, { "rows", "rows", -11 }, { "features", "m", 5, whole },
    { "norm", "|x+y|", 6, significant }, { "predicted_rel_mse", "predicted", 10, significant },
    { "measured_rel_mse", "measured", 10, significant }, { "bias_sigma", "bias/sigma", 11, ratio },
    { "bias_sigma_negative", "of -z", 8, ratio } },
  crossover = { { "d", "d", 5, whole }, { "m", "m", 5, whole }, { "causal", "causal", 7, tostring },
    { "L", "crossover", 10, whole }, { "exact_ms", "exact ms", 10, significant },
    { "favor_ms", "FAVOR+ ms", 10, significant } },
}

--- `text` in a field: to the left for a negative width.
local function field(text, width)
  local blank = (" "):rep(math.abs(width) - (utf8.len(text) or #text))
  return width < 0 and text .. blank or blank .. text
end

local function line(columns, give)
  local parts = {}
  for i, column in ipairs(columns) do parts[i] = field(give(column), column[3]) end
  return (table.concat(parts, "  "):gsub("%s+$", "")) .. "\n"
end

--- What every figure of a table was measured with, above it, or the case's own words for that.
local function heading(case, record, options)
  if options.heading then return ("bench %s: %s\n"):format(case, options.heading) end
  local info = pf.info()
  local parts = { ("%d thread%s"):format(options.threads, options.threads == 1 and "" or "s"),
                  info.cpu_name .. " kernels", info.blas:match "^%S+ %S+" or info.blas }
  for _, key in ipairs { "B", "H", "d", "m", "kernel" } do
    if record[key] ~= nil and case ~= "crossover" and case ~= "gemm" then
      parts[#parts + 1] = ("%s %s"):format(key, tostring(record[key]))
    end
  end
  if record.causal and case ~= "crossover" then parts[#parts + 1] = "causal" end
  if record.task then
    parts[#parts + 1] = ("%s of models %d wide with %s"):format(cli.count(record.steps, "step"),
      record.D, cli.count(record.layers, "layer"))
  end
  if record.gemm_gflops then
    parts[#parts + 1] = ("GEMM %.1f GFLOP/s a thread"):format(record.gemm_gflops)
  end
  return ("bench %s: %s\n"):format(case, table.concat(parts, ", "))
end

local headed -- the table whose heading stands

--- A record: a line of JSON, or a row of the case's table, or of the one that is named.
function tools.print_record(record, options, named)
  local info = pf.info()
  record.threads, record.cpu, record.blas = options.threads, info.cpu_name, info.blas
  if options.collect then return options.collect(record) end
  if options.json then return cli.print_json(record) end
  local columns = TABLES[named or options.case]
  if headed ~= columns then
    cli.write(heading(options.case, record, options), line(columns, function(c) return c[2] end))
    headed = columns
  end
  cli.write(line(columns, function(column)
    local value = record[column[1]]
    if value == nil then return "" end
    return column[4] and column[4](value) or tostring(value)
  end))
end

--- The shape's own fields, and more.
function tools.shape_of(options, L, more, causal)
  local record = { B = options.batch, H = options.heads, L = L, d = options.head_dim,
                   m = options.features, C = causal and tools.CAUSAL_CHUNK or 0,
                   causal = causal, kernel = options.kernel }
  for key, value in pairs(more) do record[key] = value end
  return record
end

tools.bytes, tools.length = bytes, length

return tools
