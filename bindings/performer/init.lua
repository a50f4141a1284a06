-- performer/init.lua: the module that `require "performer"` gives.
--
-- The work is done in C (performer.core) and in the files beside this one; here stands what
-- users see, under the names of the reference (bindings/README.md).
local _, path = ...
local core = require "performer.core"
local home = path and path:match("^(.*)init%.lua$")
if home then core.home(home) end -- errors name the user's line, not ours

local util = require "performer.util"
local tables = require "performer.tables"
for name, get in pairs(tables) do core[name] = get end -- where the files below find them

local kernels = require "performer.kernel"
require "performer.state"
require "performer.items"
require "performer.clusters"
require "performer.advise"
local patterns = require "performer.pattern"
local graph = require "performer.graph"
local layers = require "performer.nn"
local training = require "performer.training"
local data = require "performer.data"
local file = require "performer.file"
require "performer.generate"
require "performer.serve"
require "performer.loss"

local pf = {}

-- ---- engine -------------------------------------------------------------------------

for _, name in ipairs { "version", "open", "limit", "memory", "reset_peak", "clock", "interrupted",
  "term", "json", "bench_gemm", "tape", "recompute" } do
  pf[name] = core[name]
end
pf.info, pf.inspect = util.showing(core.info, "engine"), util.showing(core.inspect, "file")

-- What the engine has, as data.
pf.describe, pf.ops, pf.layers = tables.describe, tables.list_ops, tables.layers
pf.kernels, pf.kinds, pf.patterns = tables.kernels, tables.kinds, tables.patterns
pf.optimizers, pf.schedules = tables.optimizers, tables.schedules

--- Random numbers begin anew from it, and so do the kernels of names alone.
function pf.seed(number)
  core.seed(number)
  kernels.forget()
end
pf.sorted = util.sorted

--- Ends the script with an exit code and, if given, a message on stderr.
function pf.exit(code, message)
  code = code == nil and 0 or code
  if math.type(code) ~= "integer" or code < 0 or code > 255 then
    util.fail("exit: the code must be a whole number from 0 to 255, got %s",
      type(code) == "number" and tostring(code) or core.kind(code))
  end
  if message ~= nil and type(message) ~= "string" then
    util.fail("exit: the message must be a text, got %s", core.kind(message))
  end
  error(setmetatable({ code = code, message = message or "" }, {
    __tostring = function(e)
      return e.message ~= "" and e.message or ("exit code %d"):format(e.code)
    end }), 0)
end

-- ---- tensors and ops ----------------------------------------------------------------

for _, name in ipairs { "tensor", "zeros", "ones", "full", "rand", "randn", "arange", "randint",
  "randperm", "eye", "linspace", "frombytes" } do
  pf[name] = core[name]
end

for name, op in pairs(core.op) do
  if pf[name] == nil then pf[name] = op end
end

local most -- tensors that concat and stack take at once; known from the first call on

local function find_most()
  for _, op in ipairs(tables.list_ops()) do
    if op.name == "concat" then return op.max_inputs end
  end
end

local function check_list(list, where)
  if type(list) ~= "table" then
    util.fail("%s: a list of tensors is needed, got %s", where, core.kind(list))
  end
  if #list == 0 then util.fail("%s: the list of tensors is empty", where) end
  most = most or find_most()
end

--- The list in groups that an op takes, each joined by it.
local function joined(list, op, ...)
  local groups = {}
  for first = 1, #list, most do
    local last = math.min(first + most - 1, #list)
    groups[#groups + 1] = op({ table.unpack(list, first, last) }, ...)
  end
  return groups
end

--- Tensors one after another along a dimension; any number of them.
function pf.concat(list, ...)
  check_list(list, "concat")
  while #list > most do list = joined(list, core.op.concat, ...) end
  return core.op.concat(list, ...)
end

--- Tensors side by side along a new dimension; any number of them.
function pf.stack(list, ...)
  check_list(list, "stack")
  if #list <= most then return core.op.stack(list, ...) end
  return pf.concat(joined(list, core.op.stack, ...), ...)
end

--- "tensor", "module", "state" ... or Lua's type.
pf.kind = core.kind

-- ---- attention, layers, training ----------------------------------------------------

pf.kernel = kernels.kernel
pf.attention = kernels.attention
pf.attention.flops = core.attention_flops
pf.attention.listed = patterns.attention
pf.pattern = patterns.pattern
pf.graph = graph
pf.nn = layers.nn

pf.optim, pf.schedule = training.optim, training.schedule

pf.data = data.data
pf.tokenizer = data.tokenizer
pf.weights = require "performer.weights"
pf.check = require "performer.check"
pf.ranks = util.namespace(require "performer.ranks", "pf.ranks")

-- ---- files --------------------------------------------------------------------------

--- "npy" or "npz", by what a path ends in; else nil.
local function numpy_kind(place)
  return type(place) == "string" and place:lower():match "%.(np[yz])$" or nil
end

--- Refuses what a file of the kind can't hold.
local function check_numpy(kind, place, tensors, metadata)
  local one = core.kind(tensors) == "tensor"
  if kind == "npy" and not one then
    util.fail("save: %s holds one tensor; {name = tensor} goes into .npz or .safetensors", place)
  elseif kind == "npz" and one then
    util.fail("save: %s holds {name = tensor}; one tensor goes into .npy", place)
  elseif metadata ~= nil then
    util.fail("save: %s keeps no metadata; .safetensors does (options are pf.npy.save's)", place)
  end
end

--- Saves {name = tensor}, or a model's tensors, as safetensors; by the path's end as .npz, or one
--- tensor as .npy. true, or nil, message, code.
function pf.save(place, tensors, metadata)
  local kind = numpy_kind(place)
  if core.kind(tensors) == "module" then tensors = tensors:tensors() end
  if not kind then return core.save(place, tensors, metadata) end
  check_numpy(kind, place, tensors, metadata)
  return core.npy_save(place, tensors)
end

local function load_numpy(place)
  local loaded, message, code = core.npy_load(place)
  if loaded == nil then return nil, message, code end
  return loaded, {}
end

--- {name = tensor} and the metadata of a safetensors file, or of a .npz, which has none, and the
--- tensor of a .npy; of a path, or of a file's bytes: {bytes = string}. nil, message, code.
function pf.load(source)
  if type(source) ~= "table" then
    return (numpy_kind(source) and load_numpy or core.load)(source)
  end
  util.check_options(source, { "bytes" }, "load")
  local front = type(source.bytes) == "string" and source.bytes:sub(1, 6) or ""
  local numpy = front == "\x93NUMPY" or front:find "^PK[\3\5]"
  return file.with(source.bytes, numpy and load_numpy or core.load)
end

pf.npy = util.namespace({
  --- The tensor of a .npy file, or of a .npz the table {name = tensor}; of a path, or of the bytes
  --- of a file: {bytes = string}. nil, message, code.
  load = function(source)
    if type(source) ~= "table" then return core.npy_load(source) end
    util.check_options(source, { "bytes" }, "npy.load")
    return file.with(source.bytes, core.npy_load)
  end,
  --- Saves a tensor as .npy, or {name = tensor} as .npz; options dtype ("u8" ... "f64") and, of
  --- .npz, compress. true, or nil, message, code.
  save = function(place, tensors, options)
    options = util.check_options(options, { "dtype", "compress" }, "npy.save")
    if options.compress and core.kind(tensors) == "tensor" then
      util.fail "npy.save: compress is of .npz, {name = tensor}: one tensor is .npy, as it is"
    end
    return core.npy_save(place, tensors, options.dtype, options.compress)
  end,
}, "pf.npy")

pf.file = util.namespace({
  read = file.read, write = file.write, size = file.size, remove = file.remove,
  make_folder = file.make_folder, list = file.list,
}, "pf.file")

--- Turns what a checkpoint says of its tokenizer into one.
local function with_tokenizer(loaded)
  local config = loaded.tokenizer
  local make = type(config) == "table" and config.type and rawget(pf.tokenizer, config.type)
  if make then loaded.tokenizer = make() end
  return loaded
end

pf.checkpoint = util.namespace({
  --- Saves a checkpoint folder dir/step-N and returns its path; nil, message, code.
  save = core.checkpoint_save,
  --- {model, optimizer, state, tokenizer} of a run or checkpoint folder; with `into`
  --- {model, optimizer}, loads into what is there; with {optimizer = false}, without the
  --- optimizer. The tokenizer comes back in the form in which it was saved. nil, message, code.
  load = function(dir, into)
    util.check_options(into, { "model", "optimizer" }, "checkpoint.load")
    local loaded, message, code
    if into and into.optimizer == false and not into.model then
      loaded, message, code = core.checkpoint_load(dir, true)
    elseif into and into.model then
      loaded, message, code = core.checkpoint_restore(dir, into.model, into.optimizer or nil)
      if loaded then loaded.model, loaded.optimizer = into.model, into.optimizer end
    elseif into and into.optimizer then
      util.fail("checkpoint.load: an optimizer is loaded together with its model")
    else
      loaded, message, code = core.checkpoint_load(dir)
    end
    if not loaded then return nil, message, code end
    return util.shown(with_tokenizer(loaded), "checkpoint")
  end,
  --- What the rows of a run go on from, as save's `carried` had it, for the model that load gave;
  --- nil where the checkpoint has none; nil, message, code.
  carried = core.checkpoint_carried,
  --- The model alone. mapped: its parameters stay where they lie in the file, only read: one copy
  --- for all processes that map them. Such a model runs and streams; what is to be trained of it
  --- are adapters (model:adapt). nil, message, code.
  model = function(dir, options)
    util.check_options(options, { "mapped" }, "checkpoint.model")
    return core.model_load(dir, options and options.mapped or false)
  end,
  --- A folder to be shipped: config.json, model.safetensors, manifest.json and, where one is given,
  --- tokenizer.json; no optimizer and no state, so it is run and not trained on. true; nil,
  --- message, code: as where `dir` holds something already.
  save_model = core.model_save,
  --- Makes a run folder and keeps other writers out until this process ends; nil, message, code.
  hold = core.checkpoint_hold,
  --- Writes the small file `mark` ("BEST") that names step-N.
  mark = core.checkpoint_mark,
}, "pf.checkpoint", require("performer.words").checkpoint)

return util.namespace(pf, "performer", require("performer.words").pf)
