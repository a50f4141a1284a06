-- performer/weights.lua: numbers for a model from somewhere else: a safetensors file of another
-- program, a run, or a table of tensors.
--
-- A map says what the model's tensors are made of; everything is held against the model's names
-- and shapes before a number of it changes, so that a load which is refused leaves it as it was.
local core = require "performer.core"
local schemes = require "performer.schemes"
local util = require "performer.util"

local weights = {}

-- Misfits that a message names; the report has all.
local TOLD = 4

-- ---- the source ----

local function exists(path) return core.file_size(path) ~= nil end

--- The safetensors file that `path` stands for: itself, that of a checkpoint or run folder, or
--- model.safetensors in a folder of another program; nil, message, code.
local function file_of(path)
  if exists(path .. "/model.safetensors") then return path .. "/model.safetensors" end
  local info, message, code = core.inspect(path)
  if not info then return nil, message, code end
  return info.checkpoint and info.checkpoint .. "/model.safetensors" or path
end

local function check_tensors(source)
  for name, tensor in util.sorted(source) do
    if type(name) ~= "string" or core.kind(tensor) ~= "tensor" then
      util.fail("weights.load: {name = tensor} is needed, and '%s' is a %s", tostring(name),
        core.kind(tensor))
    end
  end
  return source
end

--- {name = tensor} and what they are called in messages; nil, message, code.
local function read(source)
  if core.kind(source) == "module" then return source:tensors(), "the model given" end
  if type(source) == "table" then return check_tensors(source), "the tensors given" end
  if type(source) ~= "string" then
    util.fail("weights.load: a path or {name = tensor} is needed, got %s", core.kind(source))
  end
  local path, message, code = file_of(source)
  if not path then return nil, message, code end
  local tensors
  tensors, message, code = core.load(path)
  if not tensors then return nil, message, code end
  return tensors, path
end

--- The tensors as a map sees them, and the set of the names that it has looked at.
local function watched(tensors)
  local used = {}
  return setmetatable({}, {
    __index = function(_, name)
      if tensors[name] then used[name] = true end
      return tensors[name]
    end,
    __pairs = function()
      local step = util.sorted(tensors)
      return function()
        local name, tensor = step()
        if name ~= nil then used[name] = true end
        return name, tensor
      end
    end,
  }), used
end

-- ---- maps ----

--- What an entry of a table map gives: a name, a list of names one after the other, a function.
local function entry_of(entry, source, name)
  if type(entry) == "string" then return source[entry] end
  if type(entry) == "function" then return entry(source) end
  if type(entry) ~= "table" or #entry == 0 then
    util.fail("weights.load: the map's '%s' must be a name, a list of names or a function, got %s",
      name, core.kind(entry))
  end
  local parts = {}
  for i, part in ipairs(entry) do
    parts[i] = source[part]
    if not parts[i] then return nil end
  end
  return #parts == 1 and parts[1] or core.op.concat(parts, 1)
end

--- A name that the model does not have is a misspelt one, and what it was to fill would go by its
--- own name.
local function check_names(map, own)
  for name in pairs(map) do
    if not own[name] then
      local near = type(name) == "string" and core.nearest(name, util.sorted_keys(own))
      util.fail("weights.load: the map has '%s', which is no tensor of the model%s", tostring(name),
        near and (" (did you mean '%s'?)"):format(near) or "")
    end
  end
end

--- A table map as a function: { ["model's name"] = entry }; other names stay what they are, and
--- false leaves the model's own numbers.
local function by_table(map, strict)
  return function(source, model)
    local made, own = {}, model:tensors()
    if strict then check_names(map, own) end
    for name in pairs(own) do
      local entry = map[name]
      if entry == nil then entry = name end
      made[name] = entry and entry_of(entry, source, name) or nil
    end
    return made
  end
end

local function same_names(source)
  local made = {}
  for name, tensor in pairs(source) do made[name] = tensor end
  return made
end

--- options.map as function(source, model) -> {model's name = tensor}.
local function map_of(map, strict)
  if map == nil then return same_names end
  if type(map) == "function" then return map end
  if type(map) == "string" then return schemes.find(map).map end
  if core.kind(map) == "table" then return by_table(map, strict) end
  util.fail("weights.load: map must be a table, a function or the name of a scheme (%s), got %s",
    table.concat(schemes.names(), ", "), core.kind(map))
end

-- ---- what fits ----

local Report = {}
Report.__index = Report
Report.__name = "weights report"

local function shape_text(shape) return "[" .. table.concat(shape, ", ") .. "]" end

--- What may be meant by a first size that differs: most often a vocabulary, or positions.
local function hint_of(m)
  local here, there = m.wanted, m.shape
  if #here ~= #there or here[2] ~= there[2] or here[1] == there[1] then return "" end
  if m.name:find "^embedding%." or m.name:find "^head" then
    return (": another vocabulary, of %d tokens where the model has %d; make the model with "
      .. "vocab = %d, or leave this tensor out with a map"):format(there[1], here[1], there[1])
  elseif m.name:find "^positions%." then
    return (": learned positions for %d tokens where the model has %d; make the model with "
      .. "length = %d"):format(there[1], here[1], there[1])
  end
  return ""
end

--- Every misfit as a sentence: the misshapen first, which say most.
function Report:misfits()
  local lines = {}
  for _, m in ipairs(self.misshapen) do
    lines[#lines + 1] = ("'%s' is %s, in the model %s%s"):format(m.name, m.text, m.wanted_text,
      hint_of(m))
  end
  for _, list in ipairs { "missing", "unexpected" } do
    for _, m in ipairs(self[list]) do
      lines[#lines + 1] = ("%s: '%s' %s"):format(list, m.name, shape_text(m.shape))
    end
  end
  return lines
end

function Report:__tostring()
  local head = ("%d loaded, %d missing, %d unexpected, %d misshapen"):format(#self.loaded,
    #self.missing, #self.unexpected, #self.misshapen)
  return table.concat({ head, table.unpack(self:misfits()) }, "\n  ")
end

local function add(list, name, tensor)
  list[#list + 1] = { name = name, shape = tensor and tensor:shape() }
end

local function is_same(a, b)
  return shape_text(a:shape()) == shape_text(b:shape()) and a:dtype() == b:dtype()
end

--- The names of what a model makes itself, and saves, but does not learn: projections, decays.
local function buffers_of(model)
  local set = {}
  for name in pairs(model:tensors()) do set[name] = true end
  local _, trained = model:parameters()
  for _, names in ipairs { trained, model:tree().frozen or {} } do
    for _, name in ipairs(names) do set[name] = nil end
  end
  return set
end

--- One tensor of the model against what the map made for it.
local function judge(report, name, own, given, buffer)
  if not given then
    if buffer then
      report.kept[#report.kept + 1] = name
    else
      add(report.missing, name, own)
    end
  elseif core.kind(given) ~= "tensor" then
    util.fail("weights.load: the map gave %s for '%s'; a tensor is needed", core.kind(given), name)
  elseif is_same(own, given) then
    report.loaded[#report.loaded + 1] = name
  else
    local dtypes = own:dtype() ~= given:dtype()
    local function text(t) return shape_text(t:shape()) .. (dtypes and " " .. t:dtype() or "") end
    report.misshapen[#report.misshapen + 1] = { name = name, shape = given:shape(),
      wanted = own:shape(), text = text(given), wanted_text = text(own) }
  end
end

--- The report of what would be loaded: nothing is changed.
local function compare(model, tensors, made, used, with_buffers)
  local report = setmetatable({ loaded = {}, missing = {}, unexpected = {}, misshapen = {},
                                kept = {} }, Report)
  local own, buffers = model:tensors(), buffers_of(model)
  for name, tensor in util.sorted(own) do
    local given = made[name]
    if buffers[name] and not with_buffers then given = nil end
    judge(report, name, tensor, given, buffers[name])
  end
  for name, tensor in util.sorted(made) do
    if not own[name] then add(report.unexpected, name, tensor) end
  end
  for name, tensor in util.sorted(tensors) do
    if not used[name] then add(report.unexpected, name, tensor) end
  end
  return report
end

--- Why a load is refused, or nil: nothing fits, or, where it is strict, not everything does.
local function refusal(report, where, strict, tensors)
  local misfits = report:misfits()
  if #report.loaded == 0 then
    local first, scheme = report.unexpected[1], schemes.of(tensors)
    return ("%s: no tensor of it fits the model%s; say with `map` how its names become the "
      .. "model's%s"):format(where, first and (", the first is '%s'"):format(first.name) or "",
      scheme and (", as those of %s do"):format(scheme.name) or "")
  end
  if not strict or #misfits == 0 then return nil end
  local more = #misfits > TOLD and ("; and %d more"):format(#misfits - TOLD) or ""
  return ("%s does not fit the model: %s%s"):format(where,
    table.concat(misfits, "; ", 1, math.min(#misfits, TOLD)), more)
end

--- All or nothing: what died with its tape is found first. Tensors that no file was read for may be
--- the model's own, under another name, so they are copied before one of them is written.
local function fill(model, names, made, from_file)
  local own, taken = model:tensors(), {}
  for _, name in ipairs(names) do
    local tensor = made[name]
    if not tensor:alive() then
      util.fail("weights.load: what the map gave for '%s' died with its tape; give tensor:detach()",
        name)
    end
    taken[name] = from_file and tensor or tensor:detach()
  end
  for _, name in ipairs(names) do own[name]:copy_(taken[name]) end
end

local OPTIONS = { "map", "strict", "buffers" }

--- Fills a model from a safetensors file, a run or checkpoint folder, another model, or
--- {name = tensor}. options: map (a table { ["model's name"] = "name" | {"q", "k", "v"}: one after
--- the other | function(source) -> tensor | false: left as it is }, a function(source, model) ->
--- {model's name = tensor}, or the name of a scheme), strict (true: every parameter must be there
--- and nothing else; false: what fits is taken), buffers (true; false: projections and other
--- numbers that the model made stay). Gives a report { loaded, kept: lists of names, missing,
--- unexpected: lists of { name, shape }, misshapen: of { name, shape, wanted } }; nil, message,
--- code where it is refused, and then the model is as it was.
function weights.load(model, source, options)
  options = util.check_options(options, OPTIONS, "weights.load")
  if core.kind(model) ~= "module" then
    util.fail("weights.load: a model is needed, got %s", core.kind(model))
  end
  local strict = options.strict ~= false
  local map = map_of(options.map, strict)
  local tensors, where, code = read(source)
  if not tensors then return nil, where, code end
  local seen, used = watched(tensors)
  local made = map(seen, model)
  if type(made) ~= "table" then
    util.fail("weights.load: the map must give {name = tensor}, got %s", core.kind(made))
  end
  local report = compare(model, tensors, made, used, options.buffers ~= false)
  local why = refusal(report, where, strict, tensors)
  if why then return nil, why, "PF_EFORMAT" end
  fill(model, report.loaded, made, type(source) == "string")
  return report
end

-- ---- models of other programs ----

--- A config as a table: given as one, a path, or config.json in the folder; nil, message, code.
local function config_of(config, folder)
  if type(config) == "table" then return config end
  local path = config or folder .. "/config.json"
  local text, message, status = core.file_read(path)
  if not text then
    return nil, ("%s; name the file that says the model's sizes with `config`"):format(message),
      status
  end
  local value, why, code = core.json.decode(text)
  if type(value) ~= "table" then return nil, ("%s: %s"):format(path, why or "no map"), code end
  return value
end

--- A model of another program, in a folder with config.json and model.safetensors or as such a
--- file: an nn.performer with its sizes and numbers. options: scheme (whose names and config they
--- are; not given: by the names of the tensors), config (a table or a path), model (options of
--- nn.performer in the place of those that follow from the config, as { attention = "favor",
--- kernel = { features = 256 } }; attention is exact where none is given). Gives the model, its
--- report and the scheme's name; nil, message, code.
function weights.open(path, options)
  options = util.check_options(options, { "scheme", "config", "model" }, "weights.open")
  if type(path) ~= "string" then
    util.fail("weights.open: a path is needed, got %s", core.kind(path))
  end
  local tensors, where, code = read(path)
  if not tensors then return nil, where, code end
  local scheme = options.scheme and schemes.find(options.scheme) or schemes.of(tensors)
  if not scheme then
    return nil, ("%s: its names are of no scheme known here (%s); make a model and load it with "
      .. "weights.load and a map"):format(where, table.concat(schemes.names(), ", ")), "PF_EFORMAT"
  end
  local config, message
  config, message, code = config_of(options.config, where:match "^(.*)/" or ".")
  if not config then return nil, message, code end
  local made, why = scheme.options(config, tensors)
  if not made then return nil, ("%s: %s"):format(where, why), "PF_EFORMAT" end
  for key, value in pairs(options.model or {}) do made[key] = value end
  local model = require("performer.nn").nn.performer(made)
  local report
  report, message, code = weights.load(model, tensors, { map = scheme.name })
  if not report then return nil, (message:gsub("^the tensors given", where)), code end
  return model, report, scheme.name
end

--- The names of the schemes.
weights.schemes = schemes.names

return util.namespace(weights, "pf.weights", require("performer.words").weights)
