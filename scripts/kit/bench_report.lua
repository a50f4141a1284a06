--- kit/bench_report.lua: `performer bench report`: this machine's own pictures. Time against
-- length for exact, linear (full, causal) and identity attention, forward and forward + backward;
-- memory against length; the estimator's error against the number of features. Beside them the
-- numbers (report.jsonl) and REPORT.md, which says what they were measured with.
local attention = require "kit.attention"
local bench_attention = require "kit.bench_attention"
local bench_features = require "kit.bench_features"
local cli = require "kit.cli"
local lfs = require "lfs"
local pf = require "performer"
local svg = require "kit.svg"
local tools = require "kit.bench_tools"

local report = {}

local LENGTHS = { 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536 }
local FEATURES = { 16, 32, 64, 128, 256, 512, 1024 }
local NORMS = { 1, 1.5 }
local REPEATS = 3
local PATIENCE = 4 -- seconds: a line ends before a single forward + backward takes longer

-- What the pictures call a kind, where its own name is not enough.
local LABELS = { [attention.LINEAR] = "FAVOR+", [attention.BASE] = "identity (no attention)" }

local LINES = {} -- { which, causal, name, growth }: growth of the time at twice the length

--- Lines for the kinds whose work a token grows with the length (or doesn't); the linear kind has
-- one more, causal.
local function add_lines(grows)
  for _, which in ipairs(attention.kind_names()) do
    local name, growth = LABELS[which] or which, grows and 4 or 2
    if tools.grows(which, { head_dim = 64, features = 256 }, 1, 1 << 20) == grows then
      LINES[#LINES + 1] = { which = which, causal = false, name = name, growth = growth }
      if which == attention.LINEAR then
        LINES[#LINES + 1] = { which = which, causal = true, name = name .. ", causal",
                              growth = growth }
      end
    end
  end
end

add_lines(true)
add_lines(false)

-- ---- measuring ----

--- Would a line's forward + backward at length L outlast patience, by its last point?
local function too_long(line, last, L)
  if not last then return false end
  local longer = last.forward_backward_ms * line.growth ^ math.log(L / last.L, 2)
  if longer <= 1e3 * PATIENCE then return false end
  cli.say("bench: %s ends at length %d: longer ones take more than %d s each", line.name, last.L,
    PATIENCE)
  return true
end

--- The points of every line, as far as patience goes; at each length all lines in turns.
local function attention_records(options, lengths)
  local records, going, last = {}, LINES, {}
  for _, L in ipairs(lengths) do
    local still = {}
    for _, line in ipairs(going) do
      if not too_long(line, last[line], L) then still[#still + 1] = line end
    end
    going = still
    for i, record in ipairs(bench_attention.measure(going, options, L)) do
      record.case, record.name, record.threads = "attention", going[i].name, options.threads
      last[going[i]], records[#records + 1] = record, record
      cli.say("bench: %-24s length %-7s  forward %.4g ms, with backward %.4g ms", record.name,
        tools.length(L), record.forward_ms, record.forward_backward_ms)
    end
  end
  return records
end

--- Error of the estimator for numbers of features and norms, independent and orthogonal rows.
local function error_records(options)
  local records = {}
  local own = setmetatable({ draws = options.draws }, { __index = options })
  function own.collect(record)
    record.case = "features"
    records[#records + 1] = record
  end
  for _, norm in ipairs(NORMS) do
    for _, m in ipairs(FEATURES) do
      own.norm, own.features = norm, m
      bench_features.features(own, { features = m, kernel = "softmax" })
    end
    cli.say("bench: error of the estimator at |x+y| = %g", norm)
  end
  return records
end

--- The yardstick's rate over all lengths.
local function gemm_rate(records)
  local rates = {}
  for i, record in ipairs(records) do rates[i] = record.gemm_gflops end
  return tools.median(rates)
end

-- ---- pictures ----

--- One line a kind of attention: `key` against length.
local function lines_of(records, key, scale)
  local series = {}
  for i, line in ipairs(LINES) do
    local points = {}
    for _, record in ipairs(records) do
      if record.name == line.name then
        points[#points + 1] = { record.L, record[key] * scale }
      end
    end
    series[i] = { name = line.name, points = points, marks = true }
  end
  return series
end

local function time_chart(records, key, what)
  return svg.chart { title = "Time of attention against length, " .. what,
    x = "sequence length L", y = "milliseconds", log_x = 2, log_y = true,
    series = lines_of(records, key, 1) }
end

--- Memory of forward + backward, and what storing exact attention's L x L weights would add.
local function memory_chart(records, options)
  local series, points = lines_of(records, "bytes_peak", 1 / (1 << 20)), {}
  for _, record in ipairs(records) do
    if record.name == LABELS[attention.LINEAR] then
      local L = record.L
      points[#points + 1] = { L, options.batch * options.heads * 4 * L * L / (1 << 20) }
    end
  end
  series[#series + 1] = { name = "an L x L matrix of weights a head (not stored)",
                          points = points, dashed = true, colour = "#888888" }
  return svg.chart { title = "Memory of forward + backward against length",
    x = "sequence length L", y = "MiB, q, k, v and gradients included", log_x = 2,
    log_y = true, series = series }
end

local function error_chart(records)
  local series = {}
  for _, norm in ipairs(NORMS) do
    local lists = { iid = {}, orthogonal = {}, predicted = {} }
    for _, record in ipairs(records) do
      if record.norm == norm and lists[record.rows] then
        table.insert(lists[record.rows], { record.features, record.measured_rel_mse })
        if record.rows == "iid" then
          table.insert(lists.predicted, { record.features, record.predicted_rel_mse })
        end
      end
    end
    local words = (", |x+y| = %g"):format(norm)
    series[#series + 1] = { name = "independent" .. words, points = lists.iid, marks = true }
    series[#series + 1] = { name = "orthogonal" .. words, points = lists.orthogonal, marks = true }
    series[#series + 1] = { name = "predicted" .. words, points = lists.predicted, dashed = true,
                            colour = "#888888" }
  end
  return svg.chart { title = "Error of the softmax estimate against the number of features",
    x = "random features m", y = "relative mean square error", log_x = 2, log_y = true,
    series = series }
end

-- ---- files ----

--- The processor's own name, where the system tells it.
local function processor()
  local file = io.open "/proc/cpuinfo"
  local text = file and file:read "a" or ""
  if file then file:close() end
  return text:match "model name%s*:%s*([^\n]+)" or pf.info().cpu_name
end

local function write(path, text)
  local file, message = io.open(path, "w")
  local ok = file
  if file then
    ok, message = file:write(text)
    local closed, why = file:close()
    if ok and not closed then ok, message = nil, why end
  end
  if not ok then
    cli.fail(1, cli.advise(("bench: can't write the report: %s"):format(message)))
  end
end

--- A Markdown table: lengths down, kinds of attention across.
local function markdown_table(records, key, show)
  local lengths, at, lines = {}, {}, {}
  for _, record in ipairs(records) do
    if not at[record.L] then
      at[record.L] = {}
      lengths[#lengths + 1] = record.L
    end
    at[record.L][record.name] = show(record[key])
  end
  table.sort(lengths)
  local names, rule = {}, { "---:" }
  for i, line in ipairs(LINES) do names[i], rule[i + 1] = line.name, "---:" end
  lines[1] = "| length | " .. table.concat(names, " | ") .. " |"
  lines[2] = "| " .. table.concat(rule, " | ") .. " |"
  for _, L in ipairs(lengths) do
    local cells = { tools.length(L) }
    for i, name in ipairs(names) do cells[i + 1] = at[L][name] or "" end
    lines[#lines + 1] = "| " .. table.concat(cells, " | ") .. " |"
  end
  return table.concat(lines, "\n")
end

local function command(options)
  local words = { "performer bench report" }
  for _, name in ipairs { "threads", "length", "heads", "head_dim", "features", "batch", "kernel",
                          "draws", "repeats", "out" } do
    if options.given[name] ~= nil then
      local value = tostring(options.given[name])
      words[#words + 1] = ("--%s %s"):format(name:gsub("_", "-"),
        value:find "^[%w,]+$" and value or cli.quote(value))
    end
  end
  return table.concat(words, " ")
end

local TEXT = [[
# Performer on this machine

* processor: %s, %d thread%s, %s kernels
* BLAS: %s
* Performer %s, `%s`
* shape: B = %d, H = %d, d = %d, m = %d, kernel %s, float32; the median of %d repetitions
* a large matrix product (n = 1024, one thread) in turns with them: %.1f GFLOP/s%s

Exact attention is the quadratic softmax attention, computed in blocks; identity returns its
values, the limit of speed. A line ends where one forward + backward takes longer than %d s.

## Time, forward (ms)
![time against length, forward](forward.svg)

%s

## Time, forward + backward (ms)
![time against length, forward and backward](forward_backward.svg)

%s

## Memory, forward + backward
![memory against length](memory.svg)

%s

## Error of the estimate
![error against the number of features](error.svg)

Relative mean square error of the estimate of exp(x.y) at two lengths of x + y. Independent rows
follow (exp(|x+y|^2) - 1) / m; orthogonal rows are better.
]]

local function held_back()
  for _, name in ipairs { "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE" } do
    if os.getenv(name) then return ("; %s was set and may hold OpenBLAS back"):format(name) end
  end
  return ""
end

local function write_all(out, options, records, errors, peak)
  local function show(value) return ("%.4g"):format(value) end
  local info, lines = pf.info(), {}
  for _, list in ipairs { records, errors } do
    for _, record in ipairs(list) do lines[#lines + 1] = cli.json(record) .. "\n" end
  end
  write(out .. "/report.jsonl", table.concat(lines))
  write(out .. "/forward.svg", time_chart(records, "forward_ms", "forward"))
  write(out .. "/forward_backward.svg",
    time_chart(records, "forward_backward_ms", "forward + backward"))
  write(out .. "/memory.svg", memory_chart(records, options))
  write(out .. "/error.svg", error_chart(errors))
  write(out .. "/REPORT.md", TEXT:format(processor(), options.threads,
    options.threads == 1 and "" or "s", info.cpu_name, info.blas, pf.version, command(options),
    options.batch, options.heads, options.head_dim, options.features, options.kernel,
    options.repeats, peak, held_back(), PATIENCE, markdown_table(records, "forward_ms", show),
    markdown_table(records, "forward_backward_ms", show),
    markdown_table(records, "bytes_peak", tools.bytes)))
end

--- The whole report: about three minutes on two cores.
function report.run(options, given)
  if not options.out then
    cli.fail(2, "bench: report needs --out DIR, a folder for its pictures")
  end
  local made, message = lfs.mkdir(options.out)
  if not made and lfs.attributes(options.out, "mode") ~= "directory" then
    cli.fail(1, cli.advise(("bench: can't make %s: %s"):format(options.out, message)))
  end
  options.given = given
  if not given.repeats then options.repeats = REPEATS end
  local began = pf.clock()
  local lengths = options.lengths or LENGTHS
  table.sort(lengths)
  local records = attention_records(options, lengths)
  local errors = error_records(options)
  write_all(options.out, options, records, errors, gemm_rate(records))
  local files = { "REPORT.md", "forward.svg", "forward_backward.svg", "memory.svg", "error.svg",
                  "report.jsonl" }
  if options.json then
    cli.print_json { case = "report", out = options.out, files = pf.json.list(files),
                     seconds = pf.clock() - began }
  else
    cli.write(("wrote %s/REPORT.md and its pictures in %.0f s\n"):format(options.out,
      pf.clock() - began))
  end
end

return report
