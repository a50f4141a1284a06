--- saved.lua - opening what a run left: its model, optimizer and settings, from a run folder or a
-- checkpoint in it, with the script that makes a model of one's own where it needs one.
local advice = require "kit.advice"
local cli = require "kit.cli"
local lfs = require "lfs"
local trainable = require "kit.trainable"
local pf = require "performer"
local train_options = require "kit.train_options"
local watched = require "kit.watched"

local saved = {}

local function a_kind(value)
  return value == nil and "nothing" or "a " .. pf.kind(value)
end

--- A model from FILE.lua, which returns function(options) -> model; the options are a run's
-- settings, as words. Its `require` finds what lies beside it. A mistake inside the file raises;
-- nil, message when the file can't be had or gives no model.
function saved.model_from(path, settings)
  local chunk, message = loadfile(path)
  if not chunk then return nil, message end
  local beside = ";" .. (path:match "^(.*/)" or "./") .. "?.lua"
  if not package.path:find(beside, 1, true) then package.path = package.path .. beside end
  local make = chunk()
  if type(make) ~= "function" then
    return nil, ("%s: must return function(options) -> model, not %s"):format(path, a_kind(make))
  end
  local model = make(watched.words(settings, train_options.words(settings)))
  local kind = pf.kind(model)
  if kind ~= "module" and not (kind == "table" and type(model.forward) == "function") then
    return nil, ("%s: its function must return a model, not %s"):format(path, a_kind(model))
  end
  return pf.nn.parameters_of(model)
end

--- Is there a run, or a checkpoint, at the path? Shards have a manifest, too, but no model.
function saved.is_run(path)
  if type(path) ~= "string" then return false end
  return lfs.attributes(path .. "/LATEST", "mode") == "file"
    or lfs.attributes(path .. "/config.json", "mode") == "file"
      and lfs.attributes(path .. "/manifest.json", "mode") == "file"
end

--- The same, or a folder whose run was ended before LATEST named its first checkpoint.
function saved.holds_run(path)
  if saved.is_run(path) then return true end
  if lfs.attributes(path, "mode") ~= "directory" then return false end
  for name in lfs.dir(path) do
    if name:match "^step%-%d+$" and lfs.attributes(path .. "/" .. name .. "/manifest.json") then
      return true
    end
  end
  return false
end

--- Refuses a run that --model names, as other programs do, and a file before its run.
function saved.check_run(command, options)
  if lfs.attributes(options.checkpoint or "", "mode") == "file" and saved.is_run(options.data) then
    cli.fail(2, ("%s: %s is a file, and %s a run: the run comes first: %s %s %s"):format(
      command, options.checkpoint, options.data, cli.called("performer " .. command),
      cli.quote(options.data), cli.quote(options.checkpoint)))
  end
  if not options.model or lfs.attributes(options.model, "mode") ~= "directory" then return end
  cli.fail(2, ("%s: %s is a folder, and --model is a Lua file that makes the model; a run is named "
    .. "by itself: %s %s"):format(command, options.model, cli.called("performer " .. command),
    cli.quote(options.model)))
end

--- The name of the tokenizer that a checkpoint was saved with, or nil.
function saved.tokenizer_name(opened)
  local tokenizer = opened.tokenizer
  if type(tokenizer) == "table" then tokenizer = tokenizer.type end
  return type(tokenizer) == "string" and tokenizer or nil
end

--- Is it trained to fill masks, and not to go on?
function saved.is_masked(opened)
  local settings = opened.state and opened.state.settings
  if settings and settings.bidirectional ~= nil then return settings.bidirectional end
  return opened.model:type() == "performer" and not opened.model:options().causal
end

--- Sets option `recompute` in every node of a model's tree that knows it, but for chains.
local function recompute_blocks(node, on)
  if node.type == "performer" or node.type == "block" then node.options.recompute = on end
  for _, child in ipairs(node.children or {}) do recompute_blocks(child, on) end
  return node
end

--- What reads a checkpoint: f(...), or what options.through makes of it, where the files are
-- another rank's.
local function read(options, f, ...)
  if options.through then return options.through(f, ...) end
  return f(...)
end

--- A checkpoint loaded into a model that stands, with an optimizer made for it if one is wanted.
local function load_into(path, model, settings, options)
  local make = options.optimizer
  return read(options, pf.checkpoint.load, path,
    { model = model, optimizer = make and make(model, settings) or nil })
end

--- What pf.inspect says of a checkpoint; where the newest of a run is damaged, of the newest that
-- is not, as a load falls back to it: its model is the run's, too. nil, message.
local function inspected(path, options)
  local info, message = read(options, pf.inspect, path)
  if info or lfs.attributes(path, "mode") ~= "directory" then return info, message end
  local steps = {}
  for name in lfs.dir(path) do
    local step = name:match "^step%-(%d+)$"
    steps[#steps + 1] = step and tonumber(step)
  end
  table.sort(steps)
  for i = #steps, 1, -1 do
    info = info or read(options, pf.inspect, ("%s/step-%d"):format(path, steps[i]))
  end
  return info, message
end

--- The settings and the tokenizer's size of a checkpoint, without its tensors; nil, message.
local function settings_of(path, options)
  local info, message = inspected(path, options)
  if not info then return nil, message end
  if not info.state then
    return nil, ("%s: is no checkpoint folder, so no model can be loaded from it"):format(path)
  end
  local name = saved.tokenizer_name(info)
  local settings = info.state.state and info.state.state.settings
  settings = train_options.saved(settings or {})
  settings.model.vocab = name and pf.tokenizer[name]():size() or nil
  return settings
end

--- A model whose layers live in a script: options.script makes it, or options.model(settings).
local function open_made(path, options)
  local settings, message = settings_of(path, options)
  if not settings then return nil, message end
  if options.recompute ~= nil then settings.model.recompute = options.recompute end
  local model
  if options.script then
    model, message = saved.model_from(options.script, settings)
  elseif not settings.script then
    model = options.model(settings)
  end
  if not model then return nil, message end
  trainable.apply(model, settings)
  return load_into(path, model, settings, options)
end

--- A model that its checkpoint describes whole.
local function open_plain(path, options)
  local alone = not options.optimizer or options.recompute ~= nil
  local opened, message = read(options, pf.checkpoint.load, path,
    alone and { optimizer = false } or nil)
  if not opened or options.recompute == nil then return opened, message end
  local model = pf.nn.build(recompute_blocks(opened.model:tree(), options.recompute))
  local settings = opened.state and opened.state.settings
  if not settings then return opened end
  return load_into(path, model, train_options.saved(settings), options)
end

--- The message where it says that a part of the model is a script's: a layer, or a kernel of a name
-- that the engine has not; nil: it says something else.
local function in_script(message)
  local told = message:match "^(.* lives in a script)"
  if told then return told end
  local where, name = message:match "^(.*kernel): there is no '([^']+)'"
  return where and ("%s '%s' lives in a script"):format(where, name)
end

-- ---- the average of the weights ----

--- --average for commands that take a model.
saved.AVERAGE = { "average", "switch", nil,
                  "the average of the weights, where a run kept one (--ema); off: the weights",
                  "on" }

-- An optimizer whose average stands in the weights' place lives as long as its model.
local lenders = setmetatable({}, { __mode = "k" })

--- Does the checkpoint at `path` hold an average of the weights?
function saved.holds_average(path)
  local info = inspected(path, {})
  local state = info and info.state
  local own = state and state.optimizer and state.optimizer.options or {}
  return (own.ema or 0) > 0
end

--- The same options of saved.open for the weights themselves; to_lend: with the optimizer, whose
-- average lend_average then puts in their place.
function saved.without_average(options, to_lend)
  local more = {}
  for name, value in pairs(options) do more[name] = value end
  more.average = false
  if to_lend then
    more.optimizer = function(model, settings)
      return pf.optim[settings.optimizer](model, settings.optimizer_options)
    end
  end
  return more
end

--- What was opened with its optimizer, with the average in the weights' place.
function saved.lend_average(opened)
  opened.optimizer:use_average(true)
  lenders[opened.model], opened.optimizer, opened.averaged = opened.optimizer, nil, true
  return opened
end

--- Opens a run or checkpoint folder: { model, optimizer, state, tokenizer }; nil, message.
-- options: script (a FILE.lua that makes the model), model (function(settings) that makes it, for
-- layers in Lua), optimizer (function(model, settings) that makes the one to load into; nil:
-- without), average (true: where the folder holds an average of the weights the model has that;
-- opened.averaged says so), recompute (true or false: whatever the model was saved with), through
-- (function(f, ...) that calls what reads the checkpoint, f(...)). What the checkpoint's state
-- says of settings comes in today's form.
function saved.open(path, options)
  local opened, message
  if options.average and saved.holds_average(path) then
    opened, message = saved.open(path, saved.without_average(options, true))
    return opened and saved.lend_average(opened), message
  end
  advice.lower(function() end) -- what was saved has its size
  if options.script then
    opened, message = open_made(path, options)
  else
    opened, message = open_plain(path, options)
    local scripted = not opened and in_script(message)
    if scripted then
      local why
      if options.model then opened, why = open_made(path, options) end
      message = why or scripted .. "; name that script with --model FILE.lua"
    end
  end
  local state = opened and opened.state
  if state and state.settings then state.settings = train_options.saved(state.settings) end
  if opened then advice.lower(nil) end
  return opened, message
end

--- The run folder of what --resume names: a run folder, run/step-N, or run/BEST; nil, message.
function saved.run_folder(path)
  path = #path > 1 and path:gsub("/+$", "") or path
  local mode, message = lfs.attributes(path, "mode")
  if not mode then return nil, ("%s: %s"):format(path, message:match "[^:]*$":gsub("^ ", "")) end
  local inner = mode ~= "directory" or lfs.attributes(path .. "/manifest.json", "mode")
  if not inner then return path end
  local parent, name = path:match "^(.-)/?([^/]+)$"
  if mode == "directory" and not name:match "^step%-%d+$" then
    return nil, path .. ": stands alone, not in a run folder"
  end
  return parent == "" and (path:sub(1, 1) == "/" and "/" or ".") or parent
end

return saved
