--- statistics.lua - means, spreads and correlations of lists of numbers.
local statistics = {}

--- Mean and standard deviation (of a sample; 0 of one).
function statistics.mean(values)
  local sum, square = 0, 0
  for _, v in ipairs(values) do sum = sum + v end
  local mean = sum / #values
  for _, v in ipairs(values) do square = square + (v - mean) ^ 2 end
  return mean, #values > 1 and math.sqrt(square / (#values - 1)) or 0
end

--- Pearson's correlation; 0 where one list is all the same.
function statistics.pearson(x, y)
  local mx, my, xx, yy, xy = statistics.mean(x), statistics.mean(y), 0, 0, 0
  for i = 1, #x do
    local a, b = x[i] - mx, y[i] - my
    xx, yy, xy = xx + a * a, yy + b * b, xy + a * b
  end
  return xx * yy > 0 and xy / math.sqrt(xx * yy) or 0
end

--- Ranks from 1; equal values share the mean of theirs.
function statistics.ranks(values)
  local order, ranks = {}, {}
  for i = 1, #values do order[i] = i end
  table.sort(order, function(a, b) return values[a] < values[b] end)
  local first = 1
  while first <= #order do
    local last = first
    while last < #order and values[order[last + 1]] == values[order[first]] do last = last + 1 end
    for i = first, last do ranks[order[i]] = (first + last) / 2 end
    first = last + 1
  end
  return ranks
end

--- Spearman's correlation: Pearson's of the ranks.
function statistics.spearman(x, y)
  return statistics.pearson(statistics.ranks(x), statistics.ranks(y))
end

return statistics
