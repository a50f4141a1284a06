-- performer/tables.lua: what the engine has, as data: the tables that constructors, help, docs and
-- command lines are made from. Each is made once, and whoever asks gets the same one, to read.
local core = require "performer.core"

-- The ops are most of it, and calling them needs none of this: they wait until somebody asks.
local known = core.read_tables(false)
local kernels = { maps = known.maps, options = known.kernel.options }

local tables = {}

--- All of it: { ops, layers, kernel = { options }, maps, attention, patterns, optimizers,
--- schedules }.
function tables.describe()
  known.ops = known.ops or core.read_tables(true).ops
  return known
end

--- A list of { name, args, results, doc, attrs ... }.
function tables.list_ops() return tables.describe().ops end

--- A list of { type, doc, options }.
function tables.layers() return known.layers end

--- { maps = { { name, doc, softmax, positive, tilted, regular, eps, width } ... }, options }.
function tables.kernels() return kernels end

--- The kinds of attention, in order: a list of { name, doc, takes_kernel, takes = { "mask" ... },
--- streams, options ... }.
function tables.kinds() return known.attention end

--- The rules of patterns: a list of { name, doc, causal, full, by_head, buckets, lists, options }.
function tables.patterns() return known.patterns end

--- A list of { name, doc, options }; the first is meant where none is named.
function tables.optimizers() return known.optimizers end

--- A list of { name, doc, options }.
function tables.schedules() return known.schedules end

return tables
