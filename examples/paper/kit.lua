--- kit.lua - what the experiments of this folder share: their options and three sizes, training
-- with a progress line, means with their spread, tables, pictures, and made-up data for who has
-- none at hand. An experiment says what is compared; nothing here knows which one it is.
local cli = require "kit.cli"
local lfs = require "lfs"
local pf = require "performer"
local Progress = require "kit.progress"
local statistics = require "kit.statistics"

local kit = {}

local opened        -- the experiment that runs: { name, mode, out, started }
local scratch = {}  -- files that are removed at the end
local printed = {}  -- what was printed, for NAME.md

-- ---- options ----

--- One row of options for each number of a size: it can be given on the command line, too.
local function size_rows(sizes)
  local rows = {}
  for name, value in pf.sorted(sizes.full) do
    local kind = math.type(value) == "integer" and (value > 0 and "positive" or "whole") or "number"
    rows[#rows + 1] = { name:gsub("_", "-"), kind, nil, sizes.doc[name] or name,
      ("%s, quick %s, smoke %s"):format(value, sizes.quick[name], sizes.smoke[name]),
      group = "Sizes" }
  end
  return rows
end

local function all_rows(experiment)
  local rows = {}
  for _, row in ipairs(experiment.data) do
    rows[#rows + 1] = { row[1], "file", nil, row[2], group = "Data" }
  end
  for _, row in ipairs(experiment.rows or {}) do rows[#rows + 1] = row end
  table.move({
    { "smoke", "flag", nil, "a few seconds: does it run?", group = "Run" },
    { "quick", "flag", nil, "2 to 25 minutes on two cores: which way does it go?",
      group = "Run" },
    { "out", "folder", "runs/paper", "where picture and table go", group = "Run" },
    { "seed", "whole", 1, "of everything random", group = "Run" },
    { "threads", "positive", nil, "threads (default: all cores)", group = "Run" },
  }, 1, 5, #rows + 1, rows)
  return table.move(size_rows(experiment.sizes), 1, 64, #rows + 1, rows)
end

--- The options of an experiment { name, about, takes (how long the whole takes), data = {{name,
-- help}, ...}, sizes = { doc, smoke, quick, full }, rows = options of its own or nil }, parsed,
-- with the numbers of the size that was asked for in them; opens the engine.
function kit.options(experiment)
  local rows = all_rows(experiment)
  local call = "examples/paper/" .. experiment.name .. ".lua"
  local parser = cli.add(cli.parser(call, ("%s\n\nWithout --smoke or --quick it takes %s."):format(
    experiment.about, experiment.takes), {
    ("performer %s --smoke"):format(call),
    ("performer %s --quick --%s FILE"):format(call, experiment.data[1][1]) }), rows)
  local options = cli.parse(parser, rows, arg)
  local mode = options.smoke and "smoke" or options.quick and "quick" or "full"
  for name, value in pairs(experiment.sizes[mode]) do
    if options[name] == nil then options[name] = value end
  end
  pf.open { threads = options.threads, seed = math.max(1, options.seed) }
  math.randomseed(options.seed)
  opened = { name = experiment.name, mode = mode, out = options.out, started = pf.clock() }
  printed = {}
  return options
end

-- ---- data ----

--- A file that is removed at the end.
local function scratch_file(text)
  local path = os.tmpname()
  scratch[#scratch + 1] = path
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
  return path
end

--- Says that no file was given; in the full size that is misuse.
local function made_up(what)
  if opened.mode == "full" then
    cli.fail(2, ("%s: give %s (or --smoke or --quick, which make some up); the README beside this "
      .. "file says where such data come from"):format(opened.name, what))
  end
  kit.print("(made-up %s: the figures say nothing but that it runs)", what)
end

local LETTERS = "ARNDCQEGHILKMFPSTWYV"

--- FASTA of made-up families: copies of a few ancestors in which a tenth of the letters are others.
function kit.made_up_proteins(count)
  made_up "proteins"
  local families, records = {}, {}
  local function letter() local i = math.random(#LETTERS) return LETTERS:sub(i, i) end
  for f = 1, 4 do
    families[f] = {}
    for i = 1, math.random(40, 80) do families[f][i] = letter() end
  end
  for n = 1, count do
    local own = {}
    for i, old in ipairs(families[n % 4 + 1]) do
      own[i] = math.random() < 0.1 and letter() or old
    end
    records[n] = (">made_up_%d\n%s\n"):format(n, table.concat(own))
  end
  return scratch_file(table.concat(records))
end

--- Made-up text: words of a small vocabulary, some of which come again and again.
function kit.made_up_text(bytes)
  made_up "text"
  local words, lines, size = {}, {}, 0
  for i = 1, 200 do
    local letters = {}
    for j = 1, math.random(2, 8) do letters[j] = string.char(96 + math.random(26)) end
    words[i] = table.concat(letters)
  end
  while size < bytes do
    local line = {}
    for i = 1, 10 do line[i] = words[1 + math.floor(200 * math.random() ^ 3)] end
    lines[#lines + 1] = table.concat(line, " ")
    size = size + #lines[#lines] + 1
  end
  return scratch_file(table.concat(lines, "\n"))
end

--- Ends in a sentence where the outside world refuses.
kit.need = cli.need
kit.say = cli.say

--- Tells that something other than proteins or text is made up.
kit.made_up = made_up

--- A whole file as a string.
function kit.read(path)
  local file = cli.need(io.open(path, "rb"))
  local text = file:read "a"
  file:close()
  return text
end

--- The rows of a table (CSV) with a line of names, as { name = text }.
kit.rows = require("kit.variants").read_table

-- ---- training ----

--- Trains: options model, label, steps, lr, batch(step), loss(model, batch, step) -> tensor; warmup
-- (a tenth), clip (0.5), decay (0.1), points: each(step) is called so many times, the last time at
-- the end. The paper's AdamW, with a cosine. Returns the mean loss of the last tenth, seconds
-- (without those of `each`), and the step where training broke down, if a gradient became infinite.
function kit.train(o)
  local optimizer = pf.optim.adamw(o.model, { lr = o.lr, decay = o.decay or 0.1,
                                              betas = { 0.9, 0.98 }, eps = 1e-9 })
  local warmup = o.warmup or math.max(1, o.steps // 10)
  local lr = pf.schedule.cosine { warmup = warmup, steps = o.steps, peak = o.lr,
                                  floor = 0.05 * o.lr }
  local progress = Progress.new { live = pf.term.colour(2), clock = pf.clock, late = true,
    name = o.label, total = o.steps, width = function() return pf.term.width(2) end }
  local seconds, last, n, asked, broken = 0, 0, 0, 0, nil
  for step = 1, o.steps do
    local start = pf.clock()
    do
      local tape <close> = pf.tape()
      local loss = o.loss(o.model, o.batch(step), step)
      tape:backward(loss)
      if step > o.steps - math.max(1, o.steps // 10) then last, n = last + loss:item(), n + 1 end
    end
    local ok, problem = pcall(optimizer.step, optimizer, { lr = lr(step), clip = o.clip or 0.5 })
    if not ok and not tostring(problem):find "not finite" then error(problem, 0) end
    seconds = seconds + pf.clock() - start
    progress:show(step, {})
    broken = not ok and step or nil
    if broken then break end
    if o.each and step * o.points // o.steps > asked then
      asked = step * o.points // o.steps
      o.each(step)
      collectgarbage()
    end
    if pf.interrupted() then cli.fail(130, opened.name .. ": interrupted") end
  end
  progress:finish()
  optimizer:close()
  local mean = n > 0 and last / n or math.huge
  if broken then
    cli.say("%s: broke down at step %d: no finite gradient", o.label, broken)
  else
    cli.say("%s: %d steps in %.1f s, loss %.4f", o.label, o.steps, seconds, mean)
  end
  return mean, seconds, broken
end

--- The loss of a language model: `batch` has input and target.
function kit.language_loss(model, batch, step)
  return model(batch, { training = true, step = step }):cross_entropy(batch.target)
end

-- ---- numbers ----

kit.mean, kit.pearson = statistics.mean, statistics.pearson
kit.ranks, kit.spearman = statistics.ranks, statistics.spearman

--- "30.80 ± 0.12" of values times `scale`.
function kit.spread(values, digits, scale)
  local mean, deviation = kit.mean(values)
  local form = ("%%.%df"):format(digits or 2)
  local text = form:format(mean * (scale or 1))
  return #values > 1 and ("%s ± " .. form):format(text, deviation * (scale or 1)) or text
end

-- ---- what comes out ----

function kit.print(format, ...)
  local line = select("#", ...) > 0 and format:format(...) or format
  printed[#printed + 1] = line
  cli.write(line, "\n")
end

--- The machine, in a few words.
function kit.machine()
  local info = pf.info()
  local file = io.open "/proc/cpuinfo"
  local model = file and file:read("a"):match "model name%s*: ([^\n]+)"
  if file then file:close() end
  return ("%s, %d threads, kernels %s"):format(model or "an unknown processor", info.threads,
                                               info.cpu_name)
end

--- A table in Markdown: a head and rows of texts, columns as wide as they need.
function kit.table(head, rows)
  local width = {}
  for _, row in ipairs { head, table.unpack(rows) } do
    for i, text in ipairs(row) do
      width[i] = math.max(width[i] or 3, utf8.len(tostring(text)) or 0)
    end
  end
  local function line(row)
    local cells = {}
    for i, text in ipairs(row) do
      text = tostring(text)
      cells[i] = text .. (" "):rep(width[i] - (utf8.len(text) or #text))
    end
    kit.print("| " .. table.concat(cells, " | ") .. " |")
  end
  line(head)
  local rule = {}
  for i, w in ipairs(width) do rule[i] = ("-"):rep(w) end
  kit.print("| " .. table.concat(rule, " | ") .. " |")
  for _, row in ipairs(rows) do line(row) end
end

--- Writes a file of the experiment into the folder --out: kit.file(".svg", text).
function kit.file(suffix, bytes)
  local path = ""
  for part in (opened.out .. "/"):gmatch "([^/]*)/" do
    path = path .. part .. "/"
    if path ~= "/" then lfs.mkdir(path) end
  end
  path = path .. opened.name .. suffix
  local file = cli.need(io.open(path, "wb"))
  file:write(bytes)
  file:close()
  cli.say("wrote %s", path)
  return path
end

--- The last line: did it beat its baseline? And all that was printed, as NAME.md.
function kit.verdict(beats, format, ...)
  kit.print("%s, %s, %.0f s in all", kit.machine(), opened.mode, pf.clock() - opened.started)
  kit.print("verdict: %s its baseline: %s", beats and "beats" or "does not beat",
            format:format(...))
  kit.file(".md", table.concat(printed, "\n") .. "\n")
end

--- Runs the experiment; what it made up is removed whatever happens.
function kit.main(body)
  local ok, problem = pcall(cli.main, body)
  for _, path in ipairs(scratch) do os.remove(path) end
  scratch = {}
  if not ok then error(problem, 0) end
end

return kit
