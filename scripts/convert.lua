--- performer convert - the same weights under another attention, as a checkpoint folder
-- that eval, generate and train --init take. Projections are drawn anew, and it says which. Also
-- takes models of other programs, makes adapters a part of the weights, and ships a model: a folder
-- without what only its training needs.
local attention = require "kit.attention"
local cli = require "kit.cli"
local lfs = require "lfs"
local model_options = require "kit.model_options"
local trainable = require "kit.trainable"
local pf = require "performer"
local saved = require "kit.saved"
local source = require "kit.source"

local ROWS = {
  { "checkpoint", "folder", nil, "run folder or checkpoint folder; or another program's folder "
    .. "with config.json and model.safetensors, or such a file" },
  { "out", "folder", nil, "folder to make" },
  { "attention", "name", nil, ("a kind of attention (%s) or the feature map of a kernel (%s); "
    .. "default: the one it has"):format(table.concat(attention.kind_names(), ", "),
    table.concat(attention.map_names(), ", ")), names = attention.names(true) },
  { "merge", "flag", nil, "make adapters a part of their weights; then nothing is frozen" },
  { "ship", "flag", nil, "--out is a folder to be shipped: the model and its tokenizer, without "
    .. "what only training needs" },
  { "model", "file", nil, "the Lua file of a model that has layers in Lua" },
  saved.AVERAGE,
  { "json", "flag", nil, "one JSON object on stdout" },
}
for _, row in ipairs(source.rows) do ROWS[#ROWS + 1] = row end

--- Rows of the kernel's options, and of attention's own. What is not given stays where the map
-- does, and is the engine's default otherwise: no default of theirs is to be shown.
for _, row in ipairs(model_options.rows) do
  if row.path:find "^kernel%." or row.path:find "^attention_options%." then
    ROWS[#ROWS + 1] = { row[1], row[2], nil, row[4], group = row.group }
  end
end

cli.place(ROWS, { "checkpoint", "run" }, { "out", "folder" })

local layers = {}
for _, layer in ipairs(pf.layers()) do
  for _, option in ipairs(layer.options) do
    if option.name == "attention" then layers[layer.type] = true end
  end
end

-- ---- the tree ----

--- f(options) of every node that has attention.
local function each_attention(node, f)
  if layers[node.type] and node.options then f(node.options) end
  for _, child in ipairs(node.children or {}) do each_attention(child, f) end
end

--- The attention of a tree, in a word: of its first layer that has one.
local function label_of(tree)
  local label
  each_attention(tree, function(options) label = label or attention.label(options) end)
  return label
end

-- ---- weights ----

--- The parameters of a model by name: what it learned, and not what it drew.
local function parameters_of(model)
  local all, frozen = {}, model:tree().frozen
  model:unfreeze()
  local list, names = model:parameters()
  for i, name in ipairs(names) do all[name] = list[i] end
  for _, name in ipairs(frozen or {}) do model:freeze(name) end
  return all
end

--- Whether a layer of the model has its queries for keys, as lsh and tied routing do.
local function is_shared(model)
  for name in pairs(model:tensors()) do
    if name:find "%f[%w]qv%.weight$" then return true end
  end
  return false
end

--- The model of `tree` with the weights of another.
local function rebuilt(tree, model)
  local made = cli.try(2, pf.nn.build, tree)
  local shared = is_shared(made)
  if shared ~= is_shared(model) then
    cli.fail(1, ("convert: %s attention %s, and the checkpoint's %s; its weights don't go from one "
      .. "to the other: %s"):format(label_of(tree), shared and "has its queries for keys"
      or "has keys of its own", shared and "has keys of its own" or "has its queries for keys",
      shared and "--attention routing --attention-tied off has keys, or train one anew"
      or "train one anew"))
  end
  cli.need(pf.weights.load(made, parameters_of(model), { buffers = false }))
  return made
end

--- What was drawn: { layers, features, seed, rows } of its kernels, or nil.
local function projections_of(model)
  local found
  for name, tensor in pairs(model:tensors()) do
    if name:find "%f[%w]projection$" then
      found = found or { layers = 0 }
      found.layers, found.features = found.layers + 1, tensor:size(-2)
    end
  end
  each_attention(model:tree(), function(options)
    if not found or not options.kernel then return end
    found.seed = math.tointeger(options.kernel.seed) or options.kernel.seed
    found.map, found.rows = options.kernel.name or attention.MAP, options.kernel.rows
  end)
  return found
end

-- ---- the command ----

--- Says which options have no effect under the attention that is put there.
local function tell_useless(options, given)
  local model, rows = {}, {}
  for _, row in ipairs(model_options.rows) do
    if row.path:find "^kernel%." or row.path:find "^attention_options%." then
      rows[#rows + 1] = row
      if not options.attention and given[cli.key(row)] ~= nil then
        cli.say("convert: --%s does nothing here: it is for --attention NAME", row[1])
      end
    end
  end
  if not options.attention then return end
  local chosen = attention.model_options(options.attention)
  model.attention = chosen.attention or attention.LINEAR
  model.kernel = model_options.collect(options).kernel or {}
  model.kernel.name = chosen.kernel.name
  model_options.tell_useless(rows, given, model, "convert")
end

local function check(options, given)
  if not options.checkpoint or not options.out then
    cli.fail(2, "convert: needs --checkpoint FOLDER and --out FOLDER, or short: convert RUN FOLDER")
  end
  local same = not options.attention and not options.merge and not options.ship
  if same and source.is_run(options.checkpoint) then
    cli.fail(2, "convert: say what is to be another: --attention NAME, or --merge; or --ship for a "
      .. "folder with the model alone")
  end
  if options.attention then
    cli.check_name("attention", options.attention, attention.names(true))
  end
  tell_useless(options, given)
  if lfs.attributes(options.out .. "/LATEST", "mode") then
    cli.fail(2, ("convert: %s holds a run already; choose another --out"):format(options.out))
  end
end

--- The state of a checkpoint: what a run's settings say of data and model, without its training.
local function state_of(opened, model, from, to, merged)
  local before = opened.state or {}
  local settings = before.settings
  if settings and model:type() == "performer" then settings.model = model:options() end
  if settings and merged then -- what a script makes of them is not to be adapted again
    settings.adapters, settings.adapters_on, settings.adapters_scale = nil, nil, nil
    settings.freeze = nil
  end
  return { step = before.step or 0, settings = settings, converted = { from = from, to = to } }
end

--- Saves what came of it; the record of the command.
local function save(opened, model, options, from, to)
  local name = saved.tokenizer_name(opened)
  local tokenizer = name and pf.tokenizer[name]() or nil
  if options.ship then
    cli.need(pf.checkpoint.save_model(options.out, { model = model, tokenizer = tokenizer }))
  else
    local state = state_of(opened, model, from, to, options.merged)
    cli.need(pf.checkpoint.save(options.out, { model = model, state = state, step = state.step,
      tokenizer = tokenizer }))
  end
  return { params = trainable.count(model), from = from, to = to, out = options.out,
           merged = options.merged, projections = not options.ship and projections_of(model) or nil,
           scheme = opened.scheme, shipped = options.ship }
end

local function tell(record)
  local drawn = record.projections
  cli.say("%s -> %s: %d parameters in %s", record.from, record.to, record.params, record.out)
  if record.shipped then cli.say("to be shipped: the folder is enough for running the model") end
  if record.merged then cli.say("adapters that are part of the weights now: %d", record.merged) end
  if not drawn then return end
  cli.say("projections drawn for %s: %s, %s%s, seed %s", cli.count(drawn.layers, "layer"),
    drawn.map, cli.count(drawn.features, "feature"),
    drawn.rows and (" (%s)"):format(drawn.rows) or "", tostring(drawn.seed))
end

local function main()
  local parser = cli.add(cli.parser("convert", "Puts other attention under given weights.", {
    "performer convert runs/book runs/fast --attention softmax --features 256",
    "performer convert stories260K runs/stories --attention relu",
    "performer convert runs/tuned runs/merged --merge",
    "performer convert runs/book book-model --ship",
  }), ROWS)
  local options, given = cli.parse(parser, ROWS, arg)
  check(options, given)
  local opened = cli.need(source.open(options.checkpoint, { script = options.model,
    scheme = options.scheme, config = options.config, average = options.average }))
  if opened.averaged then cli.say("convert: of the average of the weights (--ema)") end
  local model = opened.model
  if options.merge then
    options.merged = model:merge()
    model:unfreeze()
  end
  local tree = model:tree()
  local from = label_of(tree) or "none"
  if options.attention then
    if options.model then
      cli.fail(2, "convert: --attention is for models that their checkpoint describes; where a "
        .. "script makes the model (--model), change it there, and take the weights with train "
        .. "--init")
    end
    if from == "none" then
      cli.fail(1, ("convert: %s has no layer whose attention could be another"):format(
        options.checkpoint))
    end
    each_attention(tree, function(o) source.put_attention(o, options) end)
    model = rebuilt(tree, model)
  end
  local record = save(opened, model, options, from, label_of(model:tree()) or "none")
  if options.json then return cli.print_json(record) end
  tell(record)
end

cli.alone("convert", main)
