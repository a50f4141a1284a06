-- init.lua - the weights that a run of `train` begins with: --init RUN or FILE, and what is told of
-- them. Weights alone: data, rate and schedule are the new run's. The model is that of the run, or
-- of the other program, with the options in their place that were typed.
local attention = require "kit.attention"
local cli = require "kit.cli"
local pf = require "performer"
local run_data = require "kit.run_data"
local saved = require "kit.saved"
local source = require "kit.source"

local Init = {}
Init.__index = Init

local function fail(code, format, ...) cli.fail(code, "train: --init: " .. format:format(...)) end

-- ---- opening ----

--- What --map names, as weights.load takes it.
local function map_of(name)
  if not name then return nil end
  for _, scheme in ipairs(pf.weights.schemes()) do
    if scheme == name then return name end
  end
  local chunk, message = loadfile(name)
  if not chunk then cli.fail(1, cli.advise("train: --map: " .. message)) end
  local map = chunk()
  if type(map) ~= "table" and type(map) ~= "function" then
    cli.fail(1, ("train: --map: %s must return a table or a function, not a %s"):format(name,
      pf.kind(map)))
  end
  return map
end

--- The run that --init names, as a source of weights for a model of another making (--model
-- FILE.lua, which may be what made the run's, too): its average where it kept one, and adapters a
-- part of the weights. Where the script makes no such model, the run's tensors as they stand.
local function weights_of_run(path, script)
  local opened, message = source.open(path)
  if not opened then opened, message = source.open(path, { script = script }) end
  if not opened or pf.kind(opened.model) ~= "module" then
    cli.say("init   the tensors as %s has them, neither averaged nor merged: %s", path,
            message or "its model is no module")
    return path
  end
  if opened.averaged then cli.say("init   of the average of the weights (--ema)") end
  opened.model:merge()
  return opened.model
end

--- Opens what --init names: { path, weights (what weights.load takes), map, model, settings,
-- masked }; model, where it says one: with adapters that are a part of its weights. nil: nothing.
local function open(options)
  local path = options.init
  if not path then return nil end
  local self = setmetatable({ path = path, weights = path, map = map_of(options.map) }, Init)
  local alone = path:find "%.safetensors$" or options.map and not source.is_run(path)
  if options.model and source.is_run(path) then
    self.weights = weights_of_run(path, options.model)
  end
  if options.model or alone then return self end
  local opened, message = source.open(path)
  if not opened then fail(1, "%s", cli.advise(message)) end
  if opened.averaged then cli.say("init   of the average of the weights (--ema)") end
  self.model, self.weights = opened.model, opened.model
  self.settings = opened.state and opened.state.settings or {}
  self.masked = saved.is_masked(opened)
  opened.model:merge()
  opened.model:unfreeze()
  return self
end

-- ---- settings ----

--- The words that were typed, with those of --plain.
local function typed(options, more)
  local words = {}
  for _, list in ipairs { more or {}, options.given } do
    for name, value in pairs(list) do words[name] = value end
  end
  return words
end

--- Rows of the length that was typed, else as the run had them; not more than learned positions.
local function settle_length(self, settings, options)
  local model = settings.model
  local room = self.model:longest()
  if options.given.length and options.given.length > room then
    cli.fail(2, ("train: --length %d is more than the %d learned positions of %s; take --length "
      .. "%d or less"):format(options.given.length, room, self.path, room))
  end
  settings.length = math.min(options.given.length or self.settings.length or settings.length, room)
  if room == math.huge then model.length = settings.length end
end

--- Puts the options of the model in the place of a preset's, but for those that were typed; more:
-- words that count as such.
function Init:settle(settings, options, more)
  if not self.model then return end
  local words = typed(options, more)
  local masked = self.masked
  if options.given.bidirectional ~= nil then masked = options.given.bidirectional end
  settings.bidirectional = masked
  if self.model:type() ~= "performer" then return end
  settings.model = source.options_with(self.model:options(), words)
  settings.model.causal = not masked
  if masked then settings.model.decay = 0 end
  settings.attention = attention.label(settings.model)
  local ngrams = settings.model.ngrams
  settings.buckets = options.given.buckets or ngrams and ngrams.buckets or settings.buckets
  settle_length(self, settings, options)
end

--- Holds what is known of the model against the data; settings.model.vocab is the data's by now.
function Init:check(settings, data)
  local vocab = self.model and self.model:options().vocab
  if not vocab or self.map or vocab == settings.model.vocab then return end
  fail(1, "%s knows %d kinds of token, and %s is %s, of %d: give data of the same kind, or leave "
    .. "the embedding out with --map FILE.lua", self.path, vocab, run_data.label(settings),
    data:info().format, settings.model.vocab)
end

-- ---- the model ----

--- The model itself, where it is none that options make.
function Init:own_model()
  if self.model and self.model:type() ~= "performer" then return pf.nn.build(self.model:tree()) end
end

local function plain(list)
  local rows = pf.json.list {}
  for i, m in ipairs(list) do
    rows[i] = { name = m.name, shape = pf.json.list { table.unpack(m.shape) },
                wanted = m.wanted and pf.json.list { table.unpack(m.wanted) } }
  end
  return rows
end

--- Are the projections of the one those of the other?
local function same_attention(a, b)
  local x, y = a:options(), b:options()
  return x.attention == y.attention
    and pf.json.encode(x.kernel or {}) == pf.json.encode(y.kernel or {})
end

--- Fills the run's model; what is missing and unexpected is told, and another shape refused. The
-- record for the log.
function Init:fill(model)
  local buffers = not self.model or same_attention(model, self.model)
  local report, message = cli.try(1, pf.weights.load, model, self.weights,
                                  { map = self.map, strict = false, buffers = buffers })
  if not report then
    fail(1, "%s", cli.advise((message:gsub("^the model given", self.path)
      :gsub("say with `map` how", "say with --map FILE.lua how"))))
  end
  if #report.misshapen > 0 then
    fail(1, "%s does not fit the model: %s; leave out the options that make it another, or this "
      .. "tensor with --map FILE.lua", self.path, report:misfits()[1])
  end
  cli.say("init   %s: %s", self.path, (tostring(report):gsub("\n", "\n     ")))
  return { path = self.path, loaded = #report.loaded, missing = plain(report.missing),
           unexpected = plain(report.unexpected), misshapen = plain(report.misshapen) }
end

return { open = open }
