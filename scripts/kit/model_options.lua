--- model_options.lua - the options of a model on the command line, made from the engine's own
-- tables: every option of pf.nn.performer, of its kernel, of its attention's own and of its n-gram
-- memory has a row, with the word, the choices and the default that its table says. An option that
-- is added there can be given here without a line more.
local pf = require "performer"
local cli = require "kit.cli"
local lists = require "kit.lists"

local model_options = {}

-- Words of the command line that differ from an option's own name; false: decided by other
-- options, or by the data.
local WORDS = {
  vocab = false,         -- the tokenizer's
  causal = false,        -- --bidirectional
  attention = false,     -- --attention NAME, see attention.lua
  chosen = false,        -- the model writes it
  ["attention_options.queries"] = false, -- global_weights sets it
  cross = false, memory_dim = false, types = false, -- read inputs that data files have not
  length = false,        -- --length, which the rows of data have too
  decay = "head-decay",  -- --decay is the optimizer's
  kernels = false,       -- maps are names of --attentions
  ["kernel.name"] = false,
  ["kernel.head_dim"] = false, -- the layer's
  ["kernel.layer"] = false,
  ["kernel.seed"] = "kernel-seed", -- --seed is the run's
  ["attention_options.layer"] = false, -- the layer's, too
  ["attention_options.seed"] = "pattern-seed",
  ["attention_options.buckets"] = "hash-buckets", -- --buckets is the n-gram memory's
  ["attention_options.rate"] = "centroid-rate",
  ["ngrams.dim"] = false,
  ["ngrams.longest"] = "ngrams", -- 0: no such memory
  ["ngrams.buckets"] = false,    -- --buckets, whose default depends on the data
}

-- Lists are words by commas, which lists.lua makes options of: what stands before an option's doc.
local LISTS = {
  axes = "sizes by commas, as 64,64,3",
  attentions = "names of --attention by commas, as exact,softmax: one for each layer, or of a "
    .. "number that divides --layers",
  head_groups = "heads that are not all alike, as 2:exact,6:relu, each with a name of --attention",
}

-- What an option's kind is to cli.lua: ranges are checked by the engine.
local KINDS = { int = "integer", number = "signed", bool = "switch", string = "name" }

local layers = {}
for _, layer in ipairs(pf.layers()) do layers[layer.type] = layer end

--- An option's doc, with the choices that it doesn't name; a switch is on or off.
local function help_of(option)
  local told, doc = true, option.doc
  for _, choice in ipairs(cli.split(option.choices) or {}) do
    told = told and doc:find(choice, 1, true) ~= nil
  end
  if option.kind == "bool" then
    doc = doc:gsub("%f[%w]false:", "off:"):gsub("%f[%w]true:", "on:")
  end
  return told and doc or ("%s: %s"):format(doc, option.choices:gsub("|", ", "))
end

--- One option as a row. A doc that says what comes of none given has the default in it.
local function row_of(path, option, group, word)
  local help, shown = help_of(option), option.default
  if option.kind == "bool" and shown ~= "" then shown = shown == "true" and "on" or "off" end
  if shown == "" or option.doc:find("Not given", 1, true) then shown = nil end
  return { word, KINDS[option.kind], nil, help, shown, group = group, path = path,
           needs = option.needs, names = cli.split(option.choices) }
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
    elseif word and LISTS[path] then
      rows[#rows + 1] = { word, "list", nil, LISTS[path], group = group, path = path }
    end
  end
end

--- What an option of several kinds is: "sliding, lsh: keys ..."; where it is not the same in all,
-- each with its default. entries: { kind, help, shown } in order. Returns help and default.
local function help_of_kinds(entries)
  local same, order = {}, {}
  for _, entry in ipairs(entries) do
    local key = entry.help .. "\0" .. tostring(entry.shown)
    if not same[key] then
      same[key] = { help = entry.help, shown = entry.shown }
      order[#order + 1] = same[key]
    end
    table.insert(same[key], entry.kind)
  end
  local parts = {}
  for i, one in ipairs(order) do
    local shown = #order > 1 and one.shown and (" (%s)"):format(one.shown) or ""
    parts[i] = ("%s: %s%s"):format(table.concat(one, ", "), one.help, shown)
  end
  return table.concat(parts, "; "), #order == 1 and order[1].shown or nil
end

--- Rows for the options of the kinds' own, each once for all kinds that have it; `of` says which.
-- A word that is `taken` gets "attention-" before it.
local function kind_rows(taken)
  local rows, found = {}, {}
  for _, kind in ipairs(pf.kinds()) do
    for _, option in ipairs(kind.edges and {} or kind.options) do
      local path, word = "attention_options." .. option.name, option.name:gsub("_", "-")
      if WORDS[path] ~= nil then word = WORDS[path] end
      if word and taken[word] then word = "attention-" .. word end
      local row, own = found[option.name], word and row_of(path, option, "Attention", word)
      if word and not row then
        row = own
        row.name, row.of, row.entries = option.name, {}, {}
        found[option.name], rows[#rows + 1] = row, row
      end
      if word then
        row.of[#row.of + 1], row.of[kind.name] = kind.name, true
        table.insert(row.entries, { kind = kind.name, help = own[4], shown = own[5] })
      end
    end
  end
  for _, row in ipairs(rows) do row[4], row[5] = help_of_kinds(row.entries) end
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
  options = lists.settle(options, function(kind) return model_options.own(kind, words) end)
  if options.kernel and not lists.reads_kernel(options) then options.kernel = nil end
  return options
end

-- ---- what has an effect ----

local maps = {}
for _, map in ipairs(pf.kernels().maps) do maps[map.name] = map end

--- Are queries and keys projected? A preset may have it so.
local function is_projected(kernel)
  local map = maps[kernel.name or "softmax"]
  return not map or map.softmax or kernel.project or (kernel.features or 0) > 0
    or (kernel.preset or "own") ~= "own"
end

-- What an option may need, by the word of its row: is it so in a model's options, and how to have
-- it. The path of an option says what it needs, too.
local NEEDS = {
  rotary = { function(m) return m.positions == nil or m.positions == "rotary" end,
             "is for --positions rotary" },
  causal = { function(m) return m.causal end, "is for causal models, without --bidirectional" },
  kernel = { lists.reads_kernel, "is for attention by a feature map, as --attention softmax" },
  projection = { function(m) return not m.kernel or is_projected(m.kernel) end,
                 "is for features that are projected: softmax maps, or --features M" },
  ngrams = { function(m) return m.ngrams ~= nil end, "is for an n-gram memory, as --ngrams 4" },
  cross = { function(m) return m.cross == true end, "is for cross-attention, as --cross" },
  local_heads = { function(m) return (m.local_heads or 0) > 0 end,
                  "is for heads that slide beside the others, as --local-heads 1 or more" },
  training = { function() return true end, "is for layers that train" },
  auto = { function(m) return m.attention == "auto" end, "is for --attention auto" },
}

--- Why an option would do nothing in a model with these options; nil when it does something.
local function useless(row, model)
  for _, need in ipairs { row.path and row.path:match "^(.-)%." or row.needs, row.needs } do
    local fact = NEEDS[need]
    if fact and not fact[1](model) then return fact[2] end
  end
end

--- Is there an option of this name?
function model_options.has(name)
  for _, row in ipairs(model_options.rows) do
    if row[1] == name then return true end
  end
  return false
end

--- Refuses an option of attention's own that no kind of the model's has.
local function check_own(row, model, command)
  if not row.of then return end
  for _, kind in ipairs(lists.kinds(model)) do
    if row.of[kind] then return end
  end
  local names = table.concat(row.of, ", "):gsub(", ([^,]+)$", " or %1")
  local auto = model.attention == "auto" and not (model.attentions or model.head_groups)
  local beside = (model.local_heads or 0) > 0 and model_options.has("local-" .. row[1])
  cli.fail(2, ("%s: --%s is for --attention %s%s%s"):format(command, row[1], names,
    auto and "; auto chooses a kind by itself, without options" or "",
    beside and ("; of --local-heads it is --local-%s"):format(row[1]) or ""))
end

--- The word of an option of the model's attention that is called as another row's option is, and
-- whose it is; nil: none.
local function meant(row, model)
  local name = row.path and row.path:match "[^.]*$" or row.needs and row[1]
  for _, own in ipairs(model_options.attention_rows) do
    for _, kind in ipairs(own.name == name and own[1] ~= row[1] and lists.kinds(model) or {}) do
      if own.of[kind] then return own[1], kind end
    end
  end
end

--- Says which options of `rows` were given and do nothing: no harm, but hardly what was meant;
-- those of another kind of attention are refused. 0 turns off what an option does, which is right
-- anywhere.
function model_options.tell_useless(rows, given, model, command)
  command = command or "train"
  for _, row in ipairs(rows) do
    local value = given[cli.key(row)]
    if value ~= nil then check_own(row, model, command) end
    local why = value ~= nil and value ~= 0 and useless(row, model)
    local other, kind = meant(row, value ~= nil and not row.of and model or {})
    if other and why then
      cli.fail(2, ("%s: --%s %s; of %s attention it is --%s"):format(command, row[1], why, kind,
        other))
    elseif other and given[other:gsub("-", "_")] == nil then
      cli.say("%s: --%s is not of %s attention, where it is --%s", command, row[1], kind, other)
    end
    if why then cli.say("%s: --%s does nothing here: it %s", command, row[1], why) end
  end
  local length = given.length or model.length
  if given.global and length and given.global > length then
    cli.fail(2, ("%s: --global %d is more first tokens than a row of --length %d has"):format(
      command, given.global, length))
  end
  if given.scale == 0 then
    cli.fail(2, ("%s: --scale 0 makes all features alike, so that every key weighs the same; leave "
      .. "it out"):format(command))
  end
  if given.rows == "given" then
    cli.fail(2, ("%s: --rows given: a projection is given in a script (--model FILE.lua), not on "
      .. "the command line"):format(command))
  end
end

--- A message of the engine's with the words of the command line for its names: "'decay' must be"
-- is "--head-decay must be", and of an n-gram memory "longest" is "--ngrams".
function model_options.typed(message)
  local tree = message:match "%f[%w](kernel): " or message:match "%f[%w](ngrams): "
    or message:find "%f[%w]%l+ attention: ['%l]" and "attention_options"
  message = message:gsub("%f[%w_]head_groups have (.*), as heads$",
    "--head-groups have %1, as --heads")
  for _, row in ipairs(model_options.rows) do
    local of, name = row.path:match "^(.-)%.(.*)$"
    if of == tree then
      name = name or row.path
      message = message:gsub("'" .. name .. "'", "--" .. row[1])
      if tree == "attention_options" then -- "buckets is 7", "stride = 4"
        message = message:gsub("%f[%w_]" .. name .. "( [=i]s? ?%d)", "--" .. row[1] .. "%1")
      elseif tree == "ngrams" then
        message = message:gsub("%f[%w]" .. name .. "%f[%W]", "--" .. row[1])
      end
    end
  end
  return message
end

-- ---- the other way ----

--- { word = value } of a model's options.
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
