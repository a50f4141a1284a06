-- own_options_spec.lua - every option of every kind of attention and pattern, at each entry (layer,
-- head group, list of layers, call, state, pattern, command line): known where it belongs, refused
-- by name where another kind is meant, with whose it is, and near misses with the name that is
-- meant.
local pf = require "performer"
require "spec.support"
local model_options = require "kit.model_options"
local lists = require "kit.lists"

local nn = pf.nn
local D = 8

local function has(row, name)
  for _, option in ipairs(row.options) do
    if option.name == name then return option end
  end
end

--- A value that an option may have: the number beside its default, another choice.
local function value_of(option)
  local number = tonumber(option.default)
  if option.kind == "bool" then return option.default ~= "true" end
  if option.kind == "string" then return option.choices:match "[^|]+$" end
  if option.name == "global" then return 1 end
  if number == nil then return 1 end
  return number == 0 and (option.kind == "int" and 1 or 0.5) or
    option.kind == "int" and math.tointeger(number) or number
end

--- { entry = function(name of a kind, { OPTION = value }) } of the entries that take them.
local entries = {
  layer = function(kind, own)
    own.name = kind
    nn.attention { dim = D, heads = 2, attention = own }
  end,
  block = function(kind, own)
    own.name = kind
    nn.block { dim = D, heads = 2, causal = true, attention = own }
  end,
  performer = function(kind, own)
    own.name = kind
    nn.performer { vocab = 3, dim = D, heads = 2, layers = 1, attention = own }
  end,
  list = function(kind, own)
    own.name = kind
    nn.performer { vocab = 3, dim = D, heads = 2, layers = 2, attention = { "exact", own } }
  end,
  group = function(kind, own)
    own.name = kind
    nn.block { dim = D, heads = 2, head_groups = { { heads = 1, attention = own },
                                                   { heads = 1, attention = "exact" } } }
  end,
  call = function(kind, own)
    local x = pf.randn(1, 2, 5, D)
    own.graph = kind == "graph" and pf.graph { from = {}, to = {}, nodes = 5 } or nil
    pf.attention[kind](x, x, x, own)
  end,
  state = function(kind, own)
    own.name = kind
    pf.attention.state { attention = own, head_dim = D }
  end,
  ["state beside"] = function(kind, own)
    own.attention, own.head_dim = kind, D
    pf.attention.state(own)
  end,
  flops = function(kind, own)
    pf.attention.flops(kind, { head_dim = D, length = 9, options = own })
  end,
}

local function owners(rows, name)
  local names = {}
  for _, row in ipairs(rows) do
    if has(row, name) then names[#names + 1] = row.name end
  end
  return names
end

--- Every option's name that some kind has.
local function all_names(rows)
  local names, met = {}, {}
  for _, row in ipairs(rows) do
    for _, option in ipairs(row.options) do
      if not met[option.name] then names[#names + 1], met[option.name] = option, true end
    end
  end
  return names
end

--- Words that an entry reads by itself, or that mean another thing there.
local OTHERS = { call = { scale = true } }

describe("options of attention", function()
  for entry, take in pf.sorted(entries) do
    it("are taken, or refused by name: " .. entry, function()
      for _, kind in ipairs(pf.kinds()) do
        for _, option in ipairs(all_names(pf.kinds())) do
          local name, own = option.name, has(kind, option.name)
          local where = ("%s of %s"):format(name, kind.name)
          local fine, message = pcall(take, kind.name, { [name] = value_of(own or option) })
          message = tostring(message)
          if not own then
            local read = kind.name == "graph" and entry == "call" and OTHERS.call[name]
            assert.is_true(read or not fine, where)
            assert.is_truthy(read or message:find(("unknown option '%s'"):format(name), 1, true),
              message)
            -- A kind that has it, or the nearest of this kind's own.
            local whose = owners(pf.kinds(), name)[1]
            assert.is_truthy(read or entry == "flops" or message:find(whose, 1, true), message)
          elseif fine == false then -- a value may go with others alone; never an unknown name
            assert.is_nil(message:find("unknown option", 1, true), message)
            assert.is_truthy(message:find(name, 1, true) or message:find "can't stream",
              ("%s: %s"):format(where, message))
          end
        end
      end
    end)

    it("are told by the nearest name: " .. entry, function()
      for _, kind in ipairs(pf.kinds()) do
        for _, option in ipairs(kind.options) do
          local slip = option.name .. "s"
          local fine, message = pcall(take, kind.name, { [slip] = 1 })
          assert.is_false(fine)
          assert.is_truthy(tostring(message):find("unknown option '" .. slip .. "'", 1, true)
            and tostring(message):find "did you mean '", message)
          assert.is_truthy(entry == "state beside" -- where other words are near, too
            or tostring(message):find("'" .. option.name .. "'", 1, true), message)
        end
      end
    end)
  end

  it("are those of a rule, in patterns", function()
    for _, rule in ipairs(pf.patterns()) do
      for _, option in ipairs(rule.lists and {} or all_names(pf.patterns())) do
        local own = has(rule, option.name)
        local given = { [option.name] = value_of(own or option) }
        local fine, message = pcall(pf.pattern[rule.name], given)
        if not own then
          assert.is_false(fine, option.name .. " of " .. rule.name)
          local said = "unknown option '" .. option.name .. "'; it is of"
          assert.is_truthy(tostring(message):find(said, 1, true), message)
        end
      end
    end
  end)

  it("are words of the command line for their kinds alone", function()
    for _, row in ipairs(model_options.attention_rows) do
      local key = row[1]:gsub("-", "_")
      local given = { [key] = 3 }
      for _, kind in ipairs(pf.kinds()) do
        local models = { { attention = kind.name }, { attentions = { kind.name, kind.name } },
                         { head_groups = { { heads = 1, attention = kind.name } } } }
        for _, model in ipairs(kind.edges and {} or models) do
          local fine, problem = pcall(model_options.tell_useless, model_options.rows, given, model)
          assert.equal(row.of[kind.name] == true, fine, row[1] .. " of " .. kind.name)
          local message = type(problem) == "table" and problem.message or ""
          assert.is_truthy(fine or message:find("--" .. row[1] .. " is for --attention "
            .. row.of[1], 1, true), message)
        end
      end
      assert.raises("auto chooses a kind by itself", function()
        local fine, problem = pcall(model_options.tell_useless, model_options.rows, given,
          { attention = "auto" })
        assert.is_false(fine)
        error(problem.message, 0)
      end)
    end
  end)

  it("have the words of the command line in messages of the engine", function()
    assert.matches("%-%-hash%-buckets is 7", model_options.typed(
      "attention: lsh attention: buckets is 7, but a hash has two sides"))
    assert.matches("%-%-last = 9 of a block, but %-%-stride = 4", model_options.typed(
      "attention: fixed attention: last = 9 of a block, but stride = 4 is all that it has"))
  end)

  it("of a kernel are read where some attention reads one", function()
    for _, kind in ipairs(pf.kinds()) do
      assert.equal(kind.takes_kernel, lists.reads_kernel { attention = kind.name })
      assert.is_true(lists.reads_kernel { attentions = { kind.name, "favor" } })
    end
    assert.is_false(lists.reads_kernel { local_heads = 2, heads = 2 })
    assert.is_true(lists.reads_kernel { attention = "auto" })
  end)
end)
