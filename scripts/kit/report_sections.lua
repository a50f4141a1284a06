--- report_sections.lua - what a report of a run tells from its log and its settings, a section
-- each: { id, title, body }. What needs the model is report_model.lua's.
local cli = require "kit.cli"
local curves = require "kit.curves"
local html = require "kit.html"
local machine = require "kit.machine"
local pf = require "performer"
local runs = require "kit.runs"
local svg = require "kit.svg"

local sections = {}

-- ---- curves ----

local function chart(title, unit, series)
  return svg.chart { title = title, x = "step", y = unit, series = series }
end

--- Where a curve begins and ends, in words.
local function course(points, format)
  local first, last = points[1], points[#points]
  if not first then return "no points" end
  return ("from %s at step %d to %s at step %d"):format(format:format(first[2]), first[1],
    format:format(last[2]), last[1])
end

--- A figure of one field over the steps.
local function field_figure(run, field, title, unit, format, scale)
  local points = curves.points(run.records, "step", field)
  if #points < 2 then return "" end
  for _, point in ipairs(points) do point[2] = point[2] * (scale or 1) end
  return html.figure(chart(title, unit, { { points = curves.thin(points, 400) } }),
    ("Line chart, %s: %s."):format(title, course(points, format)), title)
end

--- What counting gets on the held-out part, in nats: { name = loss }.
local function baselines(run)
  local final = run.final or {}
  return { frequencies = final.baseline_perplexity and math.log(final.baseline_perplexity),
           pairs = final.pair_perplexity and math.log(final.pair_perplexity) }
end

function sections.curves(run)
  local train = curves.points(run.records, "step", "smoothed")
  local valid = curves.held_out(run, "step")
  local last = run.records[#run.records].step
  local series = { { name = "training, running mean of about 20 steps",
                     points = curves.thin(curves.settled(train), 600) } }
  if #valid > 0 then
    series[2] = { name = "held out", points = curves.thin(valid, 60), marks = true }
  end
  for name, loss in pf.sorted(baselines(run)) do
    series[#series + 1] = { name = name, points = { { 0, loss }, { last, loss } }, dashed = true }
  end
  local alt = ("Line chart of the loss. Training: %s. Held out: %s."):format(
    course(train, "%.3f"), course(valid, "%.3f"))
  local rows = {}
  for _, record in ipairs(run.records) do
    if record.valid_loss then
      local best = run.best and run.best.step == record.step
      rows[#rows + 1] = { runs.grouped(record.step), ("%.4f"):format(record.smoothed or record.loss
        or 0 / 0), ("%.4f%s"):format(record.valid_loss, best and " (best)" or ""),
        ("%.3f"):format(math.exp(record.valid_loss)) }
    end
  end
  local body = html.figure(chart("Loss", "nats a token", series), alt, "Loss. The training "
    .. "curve is a running mean, in which each step counts a twentieth, so it lags behind; its "
    .. "first 3 % are left out. Held-out losses are of the weights as they were at their step.")
  if #rows > 0 then
    body = body .. "<details><summary>Every evaluation as a table</summary>"
      .. html.table("Evaluations", { "step", "training", "held out", "perplexity" }, rows)
      .. "</details>\n"
  end
  body = body .. field_figure(run, "lr", "Learning rate", "", "%.3g")
    .. field_figure(run, "norm", "Norm of the gradient, before clipping", "", "%.3g")
  return { id = "curves", title = "Curves", body = body }
end

function sections.result(run)
  local final = run.final
  if not final then
    return { id = "result", title = "Held out", body = html.paragraph("The run has not ended: what "
      .. "it comes to on the whole held-out part is not known yet.") }
  end
  local rows = { { "this model", ("%.3f"):format(final.valid_perplexity),
                   ("%.4f"):format(final.valid_loss),
                   ("%.2f %%"):format(100 * final.valid_accuracy) } }
  for name, loss in pf.sorted(baselines(run)) do
    rows[#rows + 1] = { ("counting %s"):format(name == "pairs" and "pairs of tokens" or "tokens"),
                        ("%.3f"):format(math.exp(loss)), ("%.4f"):format(loss), "" }
  end
  return { id = "result", title = "Held out", body = html.table(
    ("%s tokens that were not trained on%s"):format(runs.grouped(final.tokens),
      final.sample and ", a sample of the held-out part" or ""),
    { "", "perplexity", "nats a token", "accuracy" }, rows) }
end

function sections.speed(run)
  return { id = "speed", title = "Throughput and memory", body =
    html.paragraph(("%s tokens a second in the median of the log's lines, %s at most in the "
      .. "engine, %s of training."):format(runs.grouped(run.figures.tokens_per_s),
      runs.size(run.figures.bytes_peak), sections.duration(run.figures.seconds)))
    .. field_figure(run, "tokens_per_s", "Tokens a second, between lines of the log", "tokens/s",
                    "%.0f")
    .. field_figure(run, "bytes_peak", "Most bytes that the engine held so far", "MiB", "%.1f",
                    2 ^ -20) }
end

function sections.duration(seconds)
  if seconds < 120 then return ("%.1f seconds"):format(seconds) end
  if seconds < 7200 then return ("%.1f minutes"):format(seconds / 60) end
  return ("%.1f hours"):format(seconds / 3600)
end

-- ---- settings and data ----

local function texts(caption, rows)
  return '<div class="texts">' .. html.table(caption, { "", "" }, rows) .. "</div>\n"
end

function sections.settings(run)
  local rows = {}
  for name, value in pf.sorted(runs.settings(run, true)) do rows[#rows + 1] = { name, value } end
  local body = #rows == 0 and html.paragraph("No checkpoint tells its settings.")
    or texts("Settings of the run, the defaults among them", rows)
  local told, data = {}, run.beginnings[#run.beginnings]
  for name, value in pf.sorted(data and data.data or {}) do
    if type(value) ~= "table" then told[#told + 1] = { name, tostring(value) } end
  end
  if #told > 0 then body = body .. texts("Data, as the run found them", told) end
  return { id = "settings", title = "Settings and data", body = body }
end

-- ---- where, and how again ----

local WORDS = { version = "performer", lua = "Lua", level = "kernels", threads = "threads",
                blas = "BLAS", cpu = "processor", system = "system",
                kernel = "kernel of the system", memory = "memory" }

local function machine_rows(told)
  local rows = {}
  for name, word in pf.sorted(WORDS) do
    local value = told[name]
    if value ~= nil then
      rows[#rows + 1] = { word, name == "memory" and tonumber(value) and runs.size(value)
        or tostring(value) }
    end
  end
  return rows
end

function sections.environment(run)
  local first = run.beginnings[1] and run.beginnings[1].machine
  local body = first and texts("Where the run was trained", machine_rows(first))
    or html.paragraph("The run is of a version that did not write down where it was trained.")
  return { id = "environment", title = "Environment", body = body
    .. texts("Where this report was made", machine_rows(machine.describe())) }
end

--- The words of a command as a shell reads them, quotes left on.
local function words_of(command)
  local words, at = {}, 1
  while at <= #command do
    local from = command:find("%S", at)
    if not from then break end
    local to = from
    while to <= #command and not command:sub(to, to):find "%s" do
      local quoted = command:match("^'[^']*'()", to)
      to = quoted or command:match("^\\.()", to) or to + 1
    end
    words[#words + 1] = command:sub(from, to - 1)
    at = to
  end
  return words
end

local TAKE = { ["--out"] = true, ["--minutes"] = true, ["--tokens"] = true } -- with their values
local DROP = { ["--json"] = true, ["--tensorboard"] = true }

--- The command of a fresh run for another folder, with the number of steps that it came to.
local function again(command, steps)
  local kept, fixed, skip = {}, false, false
  for _, word in ipairs(words_of(command)) do
    local name = word:match "^%-%-[^=]+"
    if skip then
      skip = false
    elseif name and TAKE[name] then
      skip = name == word
    elseif not DROP[word] then
      fixed = fixed or name == "--steps"
      kept[#kept + 1] = word
    end
  end
  if not fixed and steps then kept[#kept + 1] = ("--steps %d"):format(steps) end
  return table.concat(kept, " ") .. " --out runs/again"
end

function sections.reproduce(run)
  local title, id = "How to make it again", "reproduce"
  local first = run.beginnings[1]
  if not first or not first.command then
    return { id = id, title = title, body = html.paragraph("The run is of a version that did not "
      .. "write down its command; its settings stand above.") }
  end
  local body = html.block(again(first.command, run.figures.steps))
    .. html.paragraph("A number of steps stands for a time or tokens that were asked for. With the "
      .. "same data, version and kind of processor the losses of a given number of steps are the "
      .. "same bits, for any number of threads.") .. html.paragraph("As it was typed:")
  for _, beginning in ipairs(run.beginnings) do
    if beginning.command then body = body .. html.block(beginning.command) end
  end
  local data = first.data
  if data.checksum then
    body = body .. html.paragraph(("The data had the checksum %s; the first line of another run's "
      .. "log.jsonl says whether it has the same."):format(data.checksum))
  end
  return { id = id, title = title, body = body .. html.paragraph("To go on, write and measure:")
    .. html.block(("performer generate --checkpoint %s\nperformer eval --checkpoint %s --data FILE")
      :format(cli.quote(run.dir), cli.quote(run.dir))) }
end

return sections
