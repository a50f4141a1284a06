-- performer/graph.lua: graphs, and attention over their edges.
--
-- A graph is made once, from lists or from a file, and used at every step: an object around the
-- engine's tensor of edges, which stands for it wherever a model reads an input `edges`. Nodes are
-- positions, so they count from 1 here.
local core = require "performer.core"
local util = require "performer.util"
local tables = require "performer.tables"
local kernels = require "performer.kernel"

local op, attention = core.op, kernels.attention

local Graph = { __name = "graph", __tensor = "edges", __length = "nodes" }
Graph.__index = Graph

local WAYS = { "nodes", "keys", "first", "loops", "both", "multi" } -- of pf.edges

-- ---- lists ----------------------------------------------------------------------------

local i32 = { dtype = "i32" }

--- One end of every edge as a tensor (edges).
local function ends_of(value, name, where)
  if core.kind(value) == "tensor" then
    if value:rank() == 1 and value:dtype() == "i32" then return value end
    util.fail("%s: %s must be a list of nodes or an i32 tensor (edges), got %s %s", where, name,
      tostring(value:shape()), value:dtype())
  end
  if type(value) ~= "table" then
    util.fail("%s: %s must be a list of nodes or an i32 tensor, got %s", where, name,
      core.kind(value))
  end
  for e, node in ipairs(value) do
    if type(node) ~= "number" or node ~= math.floor(node) or math.abs(node) > 2 ^ 31 - 1 then
      util.fail("%s: %s of edge %d must be a whole number, got %s", where, name, e,
        tostring(node))
    end
  end
  return #value > 0 and core.tensor(value, i32) or core.zeros(0, i32)
end

local function largest(ends)
  local most, list = 0, ends:numel() > 0 and ends:totable() or {}
  for _, node in ipairs(list) do most = math.max(most, node) end
  return math.tointeger(most)
end

--- A graph around the edges of lists; ways: of these lists.
local function from_lists(from, to, ways, where)
  from, to = ends_of(from, "from", where), ends_of(to, "to", where)
  local o = { first = 1 }
  for _, key in ipairs(WAYS) do if ways[key] ~= nil then o[key] = ways[key] end end
  local past = 1 - (math.tointeger(o.first) or 1)
  o.nodes = o.nodes or math.max(largest(to), o.keys and 0 or largest(from)) + past
  local edges = op.edges(from, to, o)
  return setmetatable({ nodes = o.nodes, keys = o.keys or o.nodes, edges = edges,
                        count = edges:size(1) }, Graph)
end

-- ---- files ----------------------------------------------------------------------------

--- A node's number; nil of one that no i32 holds.
local function node_of(digits)
  local node = digits and math.tointeger(tonumber(digits))
  return node and node < 2 ^ 31 and node or nil
end

--- Whether a line holds no edge: it is empty, a comment, or words of the first line, which begin
-- before any number does.
local function is_beside(line, number)
  return line:find "^%s*$" or line:find "^%s*[#%%]" or number == 1 and not line:find "^[^%a]*%d"
end

--- Two lists of a file with a pair of whole numbers a line, and maybe a line of words before them.
local function read_pairs(path)
  core.check_text(path, "graph", "the path")
  local text, message, status = core.file_read(path)
  if not text then return nil, message, status end
  local from, to, number = {}, {}, 0
  for line in text:gmatch "([^\n]*)\n?" do
    number = number + 1
    local a, b = line:match "^%s*(%d+)[%s,]+(%d+)%s*$"
    a, b = node_of(a), node_of(b)
    if a and b then
      from[#from + 1], to[#to + 1] = a, b
    elseif not is_beside(line, number) then
      return nil, ("%s: line %d must be two whole numbers, from and to"):format(path, number),
        "PF_EFORMAT"
    end
  end
  return from, to
end

-- ---- several as one -------------------------------------------------------------------

--- The graph of all nodes of the graphs in a row.
local function joined(list, where)
  local from, to, nodes, keys = {}, {}, 0, 0
  for key in util.sorted(list) do
    if not math.type(key) then
      util.fail("%s: graphs in a row take no option '%s'; give it to each of them", where,
        tostring(key))
    end
  end
  for n, g in ipairs(list) do
    if getmetatable(g) ~= Graph then
      util.fail("%s: entry %d of the list must be a graph, got %s", where, n, core.kind(g))
    end
    local a, b = g:ends()
    for e = 1, #a do from[#from + 1], to[#to + 1] = a[e] + keys, b[e] + nodes end
    nodes, keys = nodes + g.nodes, keys + g.keys
  end
  return from_lists(from, to, { nodes = nodes, keys = keys, multi = true }, where)
end

--- Edges in the order of their numbers: two lists of nodes, from and to.
function Graph:ends()
  local from, to = {}, {}
  local rows = self.count > 0 and self.edges:totable() or {}
  for _, row in ipairs(rows) do
    from[row[3] + 1], to[row[3] + 1] = row[2] + 1, row[1] + 1
  end
  return from, to
end

--- "5 nodes", or "5 nodes to 3" where keys are others than queries.
local function nodes_text(g)
  if g.keys == g.nodes then return ("%d nodes"):format(g.nodes) end
  return ("%d nodes to %d"):format(g.keys, g.nodes)
end

function Graph:__tostring()
  local degree, least, most = {}, math.huge, 0
  local _, to = self:ends()
  for _, node in ipairs(to) do degree[node] = (degree[node] or 0) + 1 end
  for node = 1, self.nodes do
    least, most = math.min(least, degree[node] or 0), math.max(most, degree[node] or 0)
  end
  return ("graph of %s, %d edges, %d to %d to a node"):format(nodes_text(self), self.count,
    self.nodes > 0 and least or 0, most)
end

--- A graph of lists { from =, to = }, of a file { path = }, or of graphs in a row { g1, g2 }.
local function graph(options)
  local where = "graph"
  if type(options) == "table" and getmetatable(options) == nil and options[1] ~= nil then
    return joined(options, where)
  end
  options = util.check_options(options, { "from", "to", "path", table.unpack(WAYS) }, where)
  local from, to = options.from, options.to
  if options.path ~= nil then
    if from ~= nil or to ~= nil then util.fail("%s: lists or a path, not both", where) end
    local code
    from, to, code = read_pairs(options.path)
    if not from then return nil, to, code end
  end
  if from == nil or to == nil then
    util.fail("%s: from and to are needed, the ends of every edge", where)
  end
  return from_lists(from, to, options, where)
end

-- ---- attention ------------------------------------------------------------------------

local allowed = { "graph", "from", "to", "bias", "weight", "score", "scale", "slope", "dropout",
  "draw", "causal" }
local graph_kind
for _, kind in ipairs(tables.kinds()) do
  if kind.name == "graph" then
    graph_kind = kind
    table.move(kind.takes, 1, #kind.takes, #allowed + 1, allowed)
  end
end
table.move(WAYS, 3, #WAYS, #allowed + 1, allowed)

--- Softmax attention over edges: q (B, H, Lq, d), k (B, Hk, Lk, d), v (B, Hk, Lk, dv); the graph as
--- an object, or lists of which one is made for this call.
function attention.graph(q, k, v, options)
  local where = "attention.graph"
  kernels.refuse_other(options, allowed, graph_kind, where)
  options = util.copy(util.check_options(options, allowed, where))
  local g = options.graph
  if (g ~= nil) == (options.from ~= nil or options.to ~= nil) then
    util.fail("%s: give a graph, or lists from and to", where)
  end
  util.check_rows(where, { q = q, k = k, v = v })
  if q == nil or k == nil or v == nil then util.fail("%s: q, k and v are needed", where) end
  if g == nil then
    options.nodes, options.keys = q:size(3), k:size(3)
    g = from_lists(options.from, options.to, options, where)
  end
  if getmetatable(g) ~= Graph then
    util.fail("%s: graph must be one that pf.graph made, got %s", where, core.kind(g))
  end
  if g.nodes ~= q:size(3) or g.keys ~= k:size(3) then
    util.fail("%s: the graph has %s, but there are %d queries and %d keys", where,
      nodes_text(g), q:size(3), k:size(3))
  end
  if options.slope ~= nil and (options.score or "dot") == "dot" then
    util.fail("%s: slope is of LeakyReLU, in the scores gat and gatv2; the score dot has none",
      where)
  end
  for _, key in ipairs(WAYS) do
    if options.graph and options[key] ~= nil then
      util.fail("%s: %s is of lists from and to; this graph is made: give it to pf.graph", where,
        key)
    end
    options[key] = nil
  end
  options.graph, options.from, options.to, options.edges = nil, nil, nil, g.edges
  return op.edge_attention(q, k, v, options)
end

return graph
