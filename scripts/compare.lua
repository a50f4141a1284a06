--- performer compare - holds runs of `train` against each other, in what their settings
-- differ and what each has come to, the best marked, and their curves in one picture.
local cli = require "kit.cli"
local curves = require "kit.curves"
local pf = require "performer"
local runs = require "kit.runs"
local svg = require "kit.svg"
local whole_file = require "kit.whole_file"

local AXES = {
  steps = { "step", function(record) return record.step end },
  tokens = { "training tokens", function(record) return record.tokens_seen end },
  seconds = { "seconds", function(record) return record.seconds end },
}

local ROWS = {
  { "out", "file", nil, "SVG picture of the curves to write" },
  { "by", { "steps", "tokens", "seconds" }, "steps", "what the curves are drawn over" },
  { "json", "flag", nil, "one JSON object a run on stdout" },
}

-- ---- the table ----

--- Rows of texts as columns: the first to the left, the others to the right.
local function print_table(rows)
  local widths = {}
  for _, row in ipairs(rows) do
    for i, cell in ipairs(row) do
      widths[i] = math.max(widths[i] or 0, utf8.len(cell) or #cell)
    end
  end
  for _, row in ipairs(rows) do
    local cells = {}
    for i, cell in ipairs(row) do
      local blanks = (" "):rep(widths[i] - (utf8.len(cell) or #cell))
      cells[i] = i == 1 and cell .. blanks or blanks .. cell
    end
    cli.write((table.concat(cells, "  "):gsub("%s+$", "")), "\n")
  end
end

--- The names of runs as the first row of a table.
local function head_of(list, first)
  local row = { first }
  for i, run in ipairs(list) do row[i + 1] = cli.plain(run.name) end
  return row
end

--- A row of a figure; the best has a star.
local function figure_row(list, figure, comparable)
  local row, any = { figure[2] }, false
  local best = (comparable or not figure[5]) and runs.best_of(list, figure) or {}
  for i, run in ipairs(list) do
    local value = run.figures[figure[1]]
    any = any or value ~= nil
    row[i + 1] = value and figure[3](value) .. (best[i] and " *" or "  ") or "-  "
  end
  return any and row or nil
end

-- So many runs stand side by side.
local BESIDE = 5

local function print_runs(list, differences, comparable)
  for first = 1, #list, BESIDE do
    local last = math.min(first + BESIDE - 1, #list)
    local some = { table.unpack(list, first, last) }
    local rows = { head_of(some, "") }
    for _, difference in ipairs(differences) do
      local row = { "  " .. cli.plain(difference[1]) }
      for i = first, last do
        row[#row + 1] = cli.plain(tostring(difference[i + 1] or "-")) .. "  "
      end
      rows[#rows + 1] = row
    end
    rows[#rows + 1] = { "" }
    for _, figure in ipairs(runs.FIGURES) do
      local best = comparable or not figure[5]
      local whole = figure_row(list, figure, best) -- the best of all, not of those beside it
      if whole then rows[#rows + 1] = { whole[1], table.unpack(whole, first + 1, last + 1) } end
    end
    print_table(rows)
    if last < #list then cli.write "\n" end
  end
end

local function print_json(list, differences, why)
  for i, run in ipairs(list) do
    local record = { name = run.name, path = run.dir, finished = run.final ~= nil,
                     resumed = #run.beginnings > 1, comparable = why == nil,
                     notes = pf.json.list(run.notes), differences = {} }
    for name, value in pairs(run.figures) do record[name] = value end
    for _, difference in ipairs(differences) do
      record.differences[difference[1]] = difference[i + 1]
    end
    cli.print_json(record)
  end
end

-- ---- the picture ----

--- The curves of a run over an axis, both in one colour: held out drawn out, training dashed.
local function series_of(run, x, colour, with_training)
  local valid = curves.held_out(run, x)
  local list = { { name = run.name .. ", held out", points = curves.thin(valid, 200), marks = true,
                   colour = colour } }
  local train = with_training and curves.points(run.records, x, "smoothed") or {}
  if #train > 0 then
    list[2] = { name = run.name .. ", training", colour = colour, dashed = true,
                points = curves.thin(curves.settled(train), 400) }
  end
  return #valid > 0 and list or { list[2] }
end

local function draw(list, options, why)
  local axis, series, without = AXES[options.by], {}, {}
  for i, run in ipairs(list) do
    local before = #series
    for _, line in ipairs(series_of(run, axis[2], (svg.colour(i)), #list <= BESIDE)) do
      series[#series + 1] = line
    end
    if #series == before then without[#without + 1] = run.name end
  end
  if #without > 0 then
    cli.say("compare: without a curve, since no line of theirs says %s: %s", axis[1],
      table.concat(without, ", "))
  end
  local text = svg.chart { title = why and "runs of different measures: losses are not comparable"
    or "losses of runs (training: running means)", x = axis[1], y = "nats a token",
    series = series }
  local ok, message = whole_file.write(options.out, text)
  if not ok then cli.fail(1, cli.advise(("compare: %s"):format(message))) end
  cli.say("picture  %s", options.out)
end

local function main()
  local parser = cli.parser("compare", "Holds runs of `train` against each other.", {
    "performer compare runs/softmax runs/exact",
    "performer compare runs/* --out runs.svg --by seconds",
  })
  parser:argument("runs", "run folders"):args "+"
  local options = cli.parse(cli.add(parser, ROWS), ROWS, arg)
  if options.out then whole_file.check_suffix("compare", options.out, "svg") end
  local list = {}
  for i, path in ipairs(options.runs) do list[i] = cli.need(runs.read(path)) end
  runs.name(list)
  local differences, why = runs.differences(list), runs.incomparable(list)
  for _, run in ipairs(list) do
    for _, note in ipairs(run.notes) do cli.say("%s: %s", run.name, note) end
  end
  if why then cli.say("compare: %s", why) end
  if options.json then
    print_json(list, differences, why)
  else
    print_runs(list, differences, why == nil)
  end
  if options.out then draw(list, options, why) end
end

cli.alone("compare", main)
