--- report_model.lua - what a report of a run tells of its model: what it writes, where its heads
-- look, and how well its features estimate; a section each, as report_sections.lua has them.
local attention_maps = require "kit.attention_maps"
local html = require "kit.html"
local lfs = require "lfs"
local pf = require "performer"
local saved = require "kit.saved"
local tokens = require "kit.tokens"

local report_model = {}

local SHOWN = 48 -- tokens whose attention is drawn: more would be less than a pixel each

--- The best checkpoint's model, or the newest's: { model, tokenizer (its object), masked, from };
-- nil, message.
function report_model.open(run, options)
  local best = run.dir .. "/BEST"
  local from = lfs.attributes(best, "mode") and best or run.dir
  local opened, message = saved.open(from, { script = options.model,
                                             average = options.average ~= false })
  if not opened then return nil, message end
  local name = saved.tokenizer_name(opened)
  local tokenizer = name and pf.tokenizer[name]()
  return { model = opened.model, tokenizer = tokenizer, masked = saved.is_masked(opened),
           from = from, averaged = opened.averaged }
end

-- ---- samples ----

--- One sample behind the prompt: its text, or nil, message.
local function sample(opened, options, seed)
  local tokenizer = opened.tokenizer
  local ids, message = tokens.prompt(tokenizer, options.prompt)
  if not ids then return nil, message end
  local room = math.min(options.tokens, opened.model:longest() - #ids + 1)
  if room < 1 then return nil, "the prompt is longer than the model's positions" end
  local new = opened.model:generate { prompt = ids, tokens = room, seed = seed,
    temperature = options.temperature, stop = tokenizer:special "end",
    allow = tokens.writable(tokenizer) }
  return options.prompt .. tokenizer:decode(new)
end

--- The section, and the text of the first sample.
function report_model.samples(opened, options)
  local section = { id = "samples", title = "What it writes" }
  if opened.masked then
    section.body = html.paragraph("The model is masked: it fills gaps (performer fill), and does "
      .. "not write.")
    return section
  end
  if not opened.tokenizer then
    section.body = html.paragraph("The checkpoint does not say what its tokens stand for.")
    return section
  end
  local parts, first = { html.paragraph(("Samples of %s%s, at temperature %g, at most %d tokens "
    .. "each%s."):format(opened.from, opened.averaged and " (the average of the weights)" or "",
    options.temperature, options.tokens,
    options.prompt ~= "" and (", behind the prompt '%s'"):format(options.prompt) or "")) }, nil
  for i = 1, options.samples do
    local text, message = sample(opened, options, options.seed + i - 1)
    if not text then
      parts[#parts + 1] = html.paragraph("None: " .. message)
      break
    end
    first = first or text
    parts[#parts + 1] = ("<h3>Sample %d, seed %d</h3>\n"):format(i, options.seed + i - 1)
      .. html.block(text)
  end
  section.body = table.concat(parts)
  return section, first
end

-- ---- attention ----

--- What a head does with a sequence, in numbers: share of the weight within 3 positions, and the
-- mean distance of what it looks at.
local function habits(rows)
  local near, far = 0, 0
  for i, row in ipairs(rows) do
    for j, weight in ipairs(row) do
      local apart = math.abs(i - j)
      if apart <= 3 then near = near + weight / #rows end
      far = far + weight * apart / #rows
    end
  end
  return near, far
end

--- The rows as shades: the root, so that small weights are seen, of the share of the largest.
local function shades(rows)
  local most, out = 0, {}
  for _, row in ipairs(rows) do
    for _, weight in ipairs(row) do most = math.max(most, weight) end
  end
  for i, row in ipairs(rows) do
    out[i] = {}
    for j, weight in ipairs(row) do
      out[i][j] = math.sqrt(math.max(weight, 0) / math.max(most, 1e-30))
    end
  end
  return out
end

local function layer_maps(layer)
  local title = ("<h3>Layer %d</h3>\n"):format(layer.layer)
  if not layer.weights then return title .. html.paragraph("Not drawn: " .. layer.why .. ".") end
  local parts = { title, '<div class="maps">' }
  for head, rows in ipairs(layer.weights) do
    local near, far = habits(rows)
    local words = ("head %d: %.0f %% of the weight within 3 positions, %.1f positions away on "
      .. "average"):format(head, 100 * near, far)
    parts[#parts + 1] = ("<figure>%s<figcaption>%s</figcaption></figure>\n"):format(
      html.pixels(shades(rows), ("Attention of layer %d, %s."):format(layer.layer, words), 192),
      html.escape(("head %d: near %.0f %%, distance %.1f"):format(head, 100 * near, far)))
  end
  parts[#parts + 1] = "</div>\n"
  return table.concat(parts)
end

--- The ids that are looked at: the beginning of `text`.
local function ids_of(opened, text)
  local ids = text and opened.tokenizer and tokens.prompt(opened.tokenizer, text)
  if not ids then return nil end
  return pf.tensor({ table.unpack(ids, 1, math.min(SHOWN, #ids, opened.model:longest())) },
                   { dtype = "i32" })
end

--- The sections of maps and of the estimate's error, for the beginning of `text` (nil: none).
function report_model.attention(opened, text, records)
  local maps = { id = "attention", title = "Where its heads look" }
  local ids = ids_of(opened, text)
  local layers, why = nil, "there is no text to look at; give one with --prompt"
  if ids then layers, why = attention_maps.of(opened.model, ids) end
  if not layers then
    maps.body = html.paragraph("Not drawn: " .. why .. ".")
  else
    local parts = { html.paragraph(("A row is a position that looks, a column one that is looked "
      .. "at, darker the more; %d positions. Where features estimate softmax, these are the exact "
      .. "weights of its queries and keys; heads that forget have it counted. 'Near' is the share "
      .. "within 3 positions."):format(ids:numel())),
      html.block(opened.tokenizer:decode(ids:totable())) }
    for _, layer in ipairs(layers) do parts[#parts + 1] = layer_maps(layer) end
    maps.body = table.concat(parts)
  end
  return maps, report_model.errors(layers or {}, records)
end

-- ---- the estimate ----

local function small(x) return x and ("%.3g"):format(x) or "-" end

--- What training last saw, as the log has it.
local function seen_rows(records)
  local last, rows = nil, {}
  for _, record in ipairs(records) do last = record.attention and record or last end
  for _, layer in ipairs(last and last.attention or {}) do
    for head, sum in ipairs(layer.sum) do
      rows[#rows + 1] = { ("%s, head %d"):format(layer.layer, head), layer.map,
                          tostring(layer.features), small(layer.query[head]),
                          small(layer.key[head]), small(sum),
                          small(layer.predicted_rel_mse[head]) }
    end
  end
  return rows, last
end

--- What the features make of the text whose attention is drawn, measured.
local function measured_rows(layers)
  local rows = {}
  for _, layer in ipairs(layers) do
    for _, head in ipairs(layer.error and layer.error.heads or {}) do
      rows[#rows + 1] = { ("layer %d, head %d"):format(layer.layer, head.head),
                          small(head.predicted_rel_mse), small(head.measured_rel_mse),
                          small(head.bias_sigma), small(head.rms_error) }
    end
  end
  return rows
end

function report_model.errors(layers, records)
  local seen, last = seen_rows(records)
  local measured, parts = measured_rows(layers), {}
  if #seen + #measured == 0 then
    parts[1] = html.paragraph("Its attention estimates nothing, so there is no error to tell.")
  else
    parts[1] = html.paragraph("Random features estimate a softmax weight exp(x.y) with the mean "
      .. "square error, relative, (exp(|x + y|^2) - 1) / features, x and y being the scaled query "
      .. "and key. An error of 1 is as large as the weight itself; a model that is trained with "
      .. "the estimate learns to live with it.")
  end
  if #seen > 0 then
    parts[#parts + 1] = html.table(("As training saw it at step %d"):format(last.step),
      { "layer", "map", "features", "|x|²", "|y|²", "|x + y|²", "predicted error" }, seen)
  end
  if #measured > 0 then
    parts[#parts + 1] = html.table("On the text above, with fresh projections",
      { "head", "predicted error", "measured error", "bias, standard errors",
        "error of the output, relative" }, measured)
  end
  return { id = "error", title = "How well its features estimate", body = table.concat(parts) }
end

return report_model
