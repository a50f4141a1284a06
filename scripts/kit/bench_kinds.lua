--- kit/bench_kinds.lua: `performer bench kinds`: every kind of attention beside the others. What it
-- costs: time, bytes and flops at several lengths. What it learns: the loss of a small causal
-- language model after equal steps, on pairs to be recalled (recall.lua) and on text. A kind is
-- here by being in the engine's table; one that can't do what is asked is left out, in words.
local attention = require "kit.attention"
local bench_attention = require "kit.bench_attention"
local cli = require "kit.cli"
local data_options = require "kit.data_options"
local equal_steps = require "kit.equal_steps"
local evaluate = require "kit.evaluate"
local lfs = require "lfs"
local model_options = require "kit.model_options"
local pf = require "performer"
local recall = require "kit.recall"
local svg = require "kit.svg"
local tools = require "kit.bench_tools"

local bench_kinds = {}

--- Options of its own, rows of cli.add.
bench_kinds.rows = {
  { "data", "file", nil, "kinds: text or FASTA to learn", "the commands' own sources" },
  { "steps", "whole", 300, "kinds: training steps of each model; 0: none" },
  { "task-length", "positive", 512, "kinds: length of the rows that are learned" },
  { "task-batch", "positive", 8, "kinds: rows a step" },
  { "task-dim", "positive", 64, "kinds: width of the models that learn" },
  { "task-heads", "positive", 2, "kinds: their heads" },
  { "task-layers", "positive", 2, "kinds: their blocks" },
  { "task-lr", "number", 3e-3, "kinds: their peak learning rate" },
  { "keys", "positive", 64, "kinds: different keys of the pairs to be recalled" },
}
for _, row in ipairs(bench_kinds.rows) do row.group = "Kinds" end

local LENGTHS = { 1024, 4096, 16384 }
local JUDGED = 8   -- batches of rows held out
local POINTS = 6   -- of a curve

-- ---- which ----

--- The message of what was raised; what is no message goes on its way.
local function told(problem)
  if type(problem) ~= "string" then error(problem, 0) end
  return (problem:gsub("^[^\n]-%.lua:%d+: ", ""))
end

--- Says that a kind is left out; where it was asked for, or an option of its own was given, that
-- is misuse.
local function leave_out(which, options, where, why)
  if options.which == which or model_options.own(which, options) then
    cli.fail(2, ("bench: %s"):format(why))
  end
  cli.say("bench: %s is left out %s: %s", which, where, why)
end

--- The kinds that were asked for and can do rows of this length.
local function usable(options, L)
  local list, rows = {}, {}
  for _, kind in ipairs(pf.kinds()) do
    if kind.edges and not options.which then
      cli.say("bench: %s is left out: it goes along the edges of a graph, and rows have none",
              kind.name)
    end
  end
  for i = 1, 3 do rows[i] = pf.randn(1, 1, L, options.head_dim) end
  for _, which in ipairs(attention.kind_names()) do
    if not options.which or options.which == which then
      local ok, why = pcall(function()
        tools.attention_call(which, options, options.causal)(rows[1], rows[2], rows[3])
      end)
      if ok then list[#list + 1] = which else leave_out(which, options, "", told(why)) end
    end
  end
  return list
end

-- ---- what it costs ----

--- A record a kind at length L, printed.
local function costs_at(list, options, L)
  local lines, records = {}, {}
  for _, which in ipairs(list) do
    if tools.work(which, options, L) <= tools.GFLOP then
      lines[#lines + 1] = { which = which, causal = options.causal }
    else
      cli.say("bench: %s is left out at length %s: a forward + backward of %.0f GFLOP, over %d",
              which, tools.length(L), tools.work(which, options, L), tools.GFLOP)
    end
  end
  if #lines == 0 then return records end
  for i, record in ipairs(bench_attention.measure(lines, options, L)) do
    record.case, record.options = "kinds", model_options.own(record.which, options)
    record.bytes_saved = bench_attention.bytes_saved(record.which, options, L)
    tools.print_record(record, options)
    records[i] = record
  end
  collectgarbage()
  return records
end

-- ---- what it learns ----

--- Pairs that are to be recalled. Half of a token's channels are those of the token before it
-- (token_shift), so that a value stands beside its key, and one layer's attention can do the rest.
local function recall_task(options)
  local task = recall.new { length = options.task_length, keys = options.keys }
  local rows = options.task_batch
  return {
    name = "recall", vocab = task.vocab, baseline = task.guess, base = "a guess",
    model = { positions = "none", token_shift = true },
    batch = function(step) return task:batch(step, rows) end,
    judge = function(model) return task:judge(model, JUDGED, rows) end,
  }
end

--- The commands' own sources: text that is there wherever this runs.
local function own_sources()
  local folder, paths = assert(package.searchpath("kit.cli", package.path)):match "^(.*)/", {}
  for name in lfs.dir(folder) do
    if name:match "%.lua$" then paths[#paths + 1] = folder .. "/" .. name end
  end
  table.sort(paths)
  return paths
end

local function text_task(options)
  local data = data_options.open("bench kinds", { data = options.data or own_sources() },
                                 { length = options.task_length })
  local rows = options.task_batch
  return {
    name = "text", vocab = data:tokenizer():size(), model = {},
    baseline = math.log(evaluate.baselines(data).pairs), base = "counting pairs",
    batch = function(step)
      return data:batch { index = step, size = rows, split = "train", seed = 1 }
    end,
    judge = function(model) return evaluate.run(model, data, { batch = rows, limit = JUDGED }) end,
  }
end

--- What kind `which` makes of a task: a record, printed; nil where it can't.
local function learn(task, which, options)
  local own = model_options.own(which, options)
  local model = { vocab = task.vocab, dim = options.task_dim, heads = options.task_heads,
                  layers = options.task_layers, length = options.task_length, causal = true,
                  kernel = { name = options.kernel, features = options.features } }
  for key, value in pairs(task.model) do model[key] = value end
  local ok, result = pcall(equal_steps.train, { name = which, own = own, model = model,
    steps = options.steps, lr = options.task_lr, batch = task.batch, judge = task.judge,
    points = POINTS, label = ("%s, %s"):format(task.name, which) })
  if not ok then return leave_out(which, options, "of " .. task.name, told(result)) end
  local shape = { batch = options.task_batch, heads = options.task_heads, kernel = options.kernel,
                  head_dim = options.task_dim // options.task_heads, features = options.features }
  local record = tools.shape_of(shape, options.task_length, {
    case = "kinds", task = task.name, which = which, options = own, D = options.task_dim,
    layers = options.task_layers, steps = options.steps, loss = result.loss,
    accuracy = result.accuracy, accuracy_far = result.accuracy_far, baseline_loss = task.baseline,
    train_loss = result.train_loss, step_ms = result.step_ms, bytes_peak = result.bytes_peak,
    tokens_per_s = 1e3 * options.task_batch * options.task_length / result.step_ms,
    params = result.params, curve = result.curve }, true)
  tools.print_record(record, options, "learned")
  return record
end

-- ---- the picture ----

--- The list with a line a kind, in the order of the engine's table: the same colour in all panels.
local function series_of(points)
  local series = {}
  for i, which in ipairs(attention.kind_names()) do
    if points[which] then
      local colour, again = svg.colour(i)
      series[#series + 1] = { name = which, points = points[which], marks = true,
                              dashed = again, colour = colour }
    end
  end
  return series
end

--- A panel of what give(record) is against length.
local function cost_panel(costs, options, title, y, log_y, give)
  local points = {}
  for _, record in ipairs(costs) do
    points[record.which] = points[record.which] or {}
    table.insert(points[record.which], { record.L, give(record) })
  end
  return svg.chart { title = title .. (options.causal and ", causal" or ""), log_x = 2,
                     log_y = log_y, x = "sequence length L", y = y, series = series_of(points) }
end

--- A panel of the loss while a task is learned, and what a guess or counting has.
local function learning_panel(learned, task, options)
  local points = {}
  for _, record in ipairs(learned) do
    if record.task == task.name then points[record.which] = record.curve end
  end
  local series, steps = series_of(points), options.steps
  series[#series + 1] = { name = task.base, dashed = true, colour = "#888888", points = {
    { math.max(1, steps // POINTS), task.baseline }, { steps, task.baseline } } }
  return svg.chart { title = ("Learned in equal steps: %s, rows of %d"):format(task.name,
    options.task_length), x = "step", y = "loss on rows held out, nats", series = series }
end

local function picture(costs, learned, tasks, options)
  local panels = {
    cost_panel(costs, options, "Time, forward + backward", "microseconds a token", true,
               function(r) return r.forward_backward_us_per_token end),
    cost_panel(costs, options, "Memory, forward + backward", "KiB a token", false,
               function(r) return r.bytes_peak / r.B / r.L / 1024 end),
  }
  for _, task in ipairs(tasks) do
    panels[#panels + 1] = learning_panel(learned, task, options)
  end
  local file, message = io.open(options.out, "w")
  if file then
    local ok, why = file:write(svg.panels(panels, 2))
    local closed, late = file:close()
    if not (ok and closed) then file, message = nil, why or late end
  end
  cli.need(file, ("bench: can't write the picture: %s"):format(message))
  cli.say("bench: wrote %s", options.out)
end

-- ---- all of it ----

function bench_kinds.run(options)
  local lengths = options.lengths or LENGTHS
  table.sort(lengths)
  local tasks = options.steps > 0 and { recall_task(options), text_task(options) } or {}
  local list, costs, learned = usable(options, lengths[1]), {}, {}
  for _, L in ipairs(lengths) do
    for _, record in ipairs(costs_at(list, options, L)) do costs[#costs + 1] = record end
  end
  for _, task in ipairs(tasks) do
    for _, which in ipairs(list) do learned[#learned + 1] = learn(task, which, options) end
  end
  if options.out then picture(costs, learned, tasks, options) end
end

return bench_kinds
