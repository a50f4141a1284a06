--- performer report - one HTML file of a run that opens anywhere, offline: curves, figures,
-- samples, attention, error of the estimate, settings, machine, and how to make it again.
local cli = require "kit.cli"
local describe = require "kit.describe"
local engine = require "kit.engine"
local html = require "kit.html"
local pf = require "performer"
local report_model = require "kit.report_model"
local runs = require "kit.runs"
local saved = require "kit.saved"
local sections = require "kit.report_sections"
local whole_file = require "kit.whole_file"

local ROWS = {
  { "out", "file", nil, "HTML file to write", "report.html in the run folder" },
  { "samples", "whole", 3, "samples that the model writes (0: none)" },
  { "tokens", "positive", 200, "tokens of each at most" },
  { "prompt", "text", "", "what samples go on from, and what attention is drawn of" },
  { "temperature", "number", 0.8, "of the samples" },
  { "seed", "whole", 1, "of the first one; the next has the next" },
  { "model", "file", nil, "the Lua file of a model that has layers in Lua" },
  saved.AVERAGE,
  engine.threads(),
  { "json", "flag", nil, "one JSON object on stdout: what was written" },
}

-- ---- the head of the page ----

local function cards(run)
  local out = { '<dl class="cards">' }
  for _, figure in ipairs(runs.FIGURES) do
    local value = run.figures[figure[1]]
    if value then
      out[#out + 1] = ("<div><dt>%s</dt><dd>%s</dd></div>"):format(html.escape(figure[2]),
        html.escape(figure[3](value)))
    end
  end
  return table.concat(out) .. "</dl>\n"
end

local function notes(run)
  if #run.notes == 0 then return "" end
  local items = {}
  for i, note in ipairs(run.notes) do
    items[i] = ("<li>The run %s.</li>"):format(html.escape(note))
  end
  return ('<div class="notes" role="note"><ul>%s</ul></div>\n'):format(table.concat(items))
end

--- What the model is, in a sentence.
local function sentence(run)
  local config = run.checkpoint.info and run.checkpoint.info.config
  local data = run.beginnings[1] and run.beginnings[1].data or {}
  local path = type(data.path) == "table" and data.path[1] or data.path
  return ("%s; trained on %s%s."):format(describe.model(config, run.figures.params),
    path and path:match "([^/]+)/*$" or "data unknown",
    data.valid_tokens and (" and judged on %s tokens of it"):format(
    runs.grouped(data.valid_tokens)) or "")
end

-- ---- the whole page ----

local function model_sections(run, options)
  local opened, message = report_model.open(run, options)
  if not opened then
    cli.say("report: the model can't be loaded, and is left out: %s", message)
    local body = html.paragraph("The model can't be loaded: " .. cli.plain(message) .. ".")
    return { { id = "samples", title = "The model", body = body },
             report_model.errors({}, run.records) }
  end
  local samples, text
  if options.samples > 0 then samples, text = report_model.samples(opened, options) end
  if options.prompt ~= "" and opened.masked then text = options.prompt end
  local maps, errors = report_model.attention(opened, text or options.prompt, run.records)
  return samples and { samples, maps, errors } or { maps, errors }
end

local function page(run, options)
  local list = { sections.result(run), sections.curves(run) }
  for _, section in ipairs(model_sections(run, options)) do list[#list + 1] = section end
  for _, name in ipairs { "speed", "settings", "environment", "reproduce" } do
    list[#list + 1] = sections[name](run)
  end
  local intro = html.paragraph(sentence(run)) .. notes(run) .. cards(run)
  return html.page("Run " .. run.name, intro, list), list
end

local function main()
  local parser = cli.parser("report", "Makes one HTML file of a run, which opens offline.", {
    "performer report runs/book",
    "performer report runs/book --prompt 'ROMEO:' --out book.html",
  })
  parser:argument("run", "run folder")
  local options = cli.parse(cli.add(parser, ROWS), ROWS, arg)
  if options.out then whole_file.check_suffix("report", options.out, "html") end
  engine.open { threads = options.threads }
  local run = cli.need(runs.read(options.run))
  options.out = options.out or run.dir .. "/report.html"
  local text, list = page(run, options)
  local ok, message = whole_file.write(options.out, text)
  if not ok then cli.fail(1, cli.advise("report: " .. message)) end
  if options.json then
    local names = {}
    for i, section in ipairs(list) do names[i] = section.id end
    return cli.print_json { path = options.out, bytes = #text, sections = pf.json.list(names) }
  end
  cli.say("report  %s (%s)", options.out, runs.size(#text))
end

cli.alone("report", main)
