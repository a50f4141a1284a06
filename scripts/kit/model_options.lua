--- model_options.lua - the options of a model on the command line, made from the engine's own
-- tables: every option of pf.nn.performer, of its kernel, of its attention's own and of its n-gram
-- memory has a row, with the word, the choices and the default that its table says. An option that
-- is added there can be given here without a line more.
local pf = require "performer"
local cli = require "kit.cli"

local model_options = {}

-- Words of the command line that differ from an option's own name; false: decided by other
-- options, or by the data.
local WORDS = {
  vocab = false,         -- the tokenizer's
  causal = false,        -- --bidirectional
  attention = false,     -- --attention NAME, see attention.lua
  chosen = false,        -- the model writes it
  length = false,        -- --length, which the rows of data have too
  decay = "head-decay",  -- --decay is the optimizer's
  ["kernel.name"] = false,
  ["kernel.head_dim"] = false, -- the layer's
  ["kernel.layer"] = false,
  ["kernel.seed"] = "kernel-seed", -- --seed is the run's
  ["ngrams.dim"] = false,
  ["ngrams.longest"] = "ngrams", -- 0: no such memory
  ["ngrams.buckets"] = false,    -- --buckets, whose default depends on the data
}

-- What an option's kind is to cli.lua: ranges are checked by the engine.
local KINDS = { int = "whole", number = "signed", bool = "switch", string = "name" }

local layers = {}
for _, layer in ipairs(pf.layers()) do layers[layer.type] = layer end

--- An option's doc, with the choices that it doesn't name.
local function help_of(option)
  local told = true
  for choice in (option.choices or ""):gmatch "[^|]+" do
    told = told and option.doc:find(choice, 1, true) ~= nil
  end
  return told and option.doc or ("%s: %s"):format(option.doc, option.choices:gsub("|", ", "))
end

--- One option as a row. A doc that says what comes of none given has the default in it.
local function row_of(path, option, group, word)
  local help, shown = help_of(option), option.default
  if option.kind == "bool" then shown = option.default == "true" and "on" or "off" end
  if shown == "" or option.doc:find("Not given", 1, true) then shown = nil end
  return { word, KINDS[option.kind], nil, help, shown, group = group, path = path }
end

--- Rows for a list of options. `prefix` of the path: "", "kernel." or "ngrams."; `lead`: what
-- stands before a word.
local function add_rows(rows, options, prefix, lead, group)
  for _, option in ipairs(options) do
    local path = prefix .. option.name
    local word = WORDS[path]
    if word == nil then word = lead .. option.name:gsub("_", "-") end
    if word and KINDS[option.kind] then
      rows[#rows + 1] = row_of(path, option, group, word)
    end
  end
end

--- Rows for the options of the kinds' own, each once for all kinds that have it; `of` says which.
-- A word that is `taken` gets "attention-" before it.
local function kind_rows(taken)
  local rows, found = {}, {}
  for _, kind in ipairs(pf.kinds()) do
    for _, option in ipairs(kind.options) do
      local path, word = "attention_options." .. option.name, option.name:gsub("_", "-")
      if taken[word] then word = "attention-" .. word end
      local row = found[option.name]
      if not row then
        row = row_of(path, option, "Attention", WORDS[path] or word)
        row.name, row.of = option.name, {}
        found[option.name], rows[#rows + 1] = row, row
      end
      row.of[#row.of + 1], row.of[kind.name] = kind.name, true
    end
  end
  for _, row in ipairs(rows) do row[4] = table.concat(row.of, ", ") .. ": " .. row[4] end
  return rows
end

local function make_rows()
  local rows, taken = {}, {}
  add_rows(rows, layers.performer.options, "", "", "Model")
  add_rows(rows, layers.ngrams.options, "ngrams.", "ngrams-", "Model")
  add_rows(rows, pf.kernels().options, "kernel.", "", "Kernel")
  for _, row in ipairs(rows) do taken[row[1]] = true end
  local own = kind_rows(taken)
  table.move(own, 1, #own, #rows + 1, rows)
  return rows, own
end

--- The rows, as cli.add takes them; `path` says where a value belongs in a model's options.
-- Those of attention's own come last, and are a list too.
model_options.rows, model_options.attention_rows = make_rows()

--- What parsed words say of a kind's own options: { window = 256 }; nil: nothing.
function model_options.own(kind, words)
  local own
  for _, row in ipairs(model_options.attention_rows) do
    local value = words[cli.key(row)]
    if row.of[kind] and value ~= nil then
      own = own or {}
      own[row.name] = value
    end
  end
  return own
end

--- The options of a model, { dim, heads, ..., kernel = {...}, ngrams = {...} }, from parsed words.
function model_options.collect(words)
  local options = {}
  for _, row in ipairs(model_options.rows) do
    local value = words[cli.key(row)]
    if row[2] == "switch" then value = cli.switch(value) end
    local tree, name = row.path:match "^(.-)%.(.*)$"
    if value ~= nil and tree then
      options[tree] = options[tree] or {}
      options[tree][name] = value
    elseif value ~= nil then
      options[row.path] = value
    end
  end
  return options
end

--- The other way: { word = value } of a model's options.
function model_options.words(options)
  local words = {}
  for _, row in ipairs(model_options.rows) do
    local tree, name = row.path:match "^(.-)%.(.*)$"
    local from = options
    if tree then from = options[tree] or {} end
    words[cli.key(row)] = from[name or row.path]
  end
  return words
end

return model_options
