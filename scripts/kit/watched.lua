--- watched.lua - the words that a model's script is given, and which of them it reads: an option of
-- the model that was typed and that its script has no use for is told.
local cli = require "kit.cli"
local model_options = require "kit.model_options"

local watched = {}

-- Of a run's settings, the names that the script of its model has read.
local read_of = setmetatable({}, { __mode = "k" })

--- `words` as a table that notes what is read of it; who walks over it has read all.
function watched.words(settings, words)
  local read = {}
  read_of[settings] = read
  return setmetatable({}, {
    __index = function(_, name)
      read[name] = true
      return words[name]
    end,
    __pairs = function()
      for name in pairs(words) do read[name] = true end
      return pairs(words)
    end,
  })
end

--- Says which of the model's options were given and not read by the script that made it.
function watched.tell(settings, given)
  local read = read_of[settings]
  if not read then return end
  local names = { "attention", "buckets" }
  for _, row in ipairs(model_options.rows) do names[#names + 1] = cli.key(row) end
  for _, name in ipairs(names) do
    if given[name] ~= nil and not read[name] then
      cli.say("train: --%s does nothing here: %s does not read it", (name:gsub("_", "-")),
              settings.script)
    end
  end
end

return watched
