-- dice.lua - random choices for what is made from a seed: the same on every machine.
local dice = {}

local state = 0

function dice.seed(seed) state = seed end

--- 1 .. n, by a counter of SplitMix64.
function dice.below(n)
  state = state + 0x9e3779b97f4a7c15
  local z = state
  z = (z ~ (z >> 30)) * 0xbf58476d1ce4e5b9
  z = (z ~ (z >> 27)) * 0x94d049bb133111eb
  return math.tointeger(((z ~ (z >> 31)) >> 1) % n) + 1
end

function dice.one_of(list) return list[dice.below(#list)] end

return dice
