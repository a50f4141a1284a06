--- svg.lua - small pictures without any library: line charts on linear or log axes, and heat
-- maps, as one self-contained SVG text. Colours tell apart for colour-blind eyes too.
local svg = {}

local COLOURS = { "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000",
                  "#882255", "#999933", "#8b4513" }
local WIDTH, HEIGHT = 760, 440
local LEFT, RIGHT, TOP, BOTTOM = 72, 24, 48, 58

--- Text as XML has it, where control characters may not stand.
local function escape(text)
  return (tostring(text):gsub("%c", "?"):gsub("[&<>\"]", {
    ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }))
end

--- A round step so that `span` takes about `count` of them.
local function round_step(span, count)
  local raw = span / count
  local power = 10 ^ math.floor(math.log(raw, 10))
  local rest = raw / power
  return power * (rest < 1.5 and 1 or rest < 3.5 and 2 or rest < 7.5 and 5 or 10)
end

local function label(value)
  local size = math.abs(value)
  if size >= 1e6 then return ("%gM"):format(value / 1e6) end
  if size >= 1e4 then return ("%gk"):format(value / 1e3) end
  return ("%.4g"):format(value)
end

--- 1024 -> "1k": what stands at powers of two.
local function binary_label(value)
  if value % (1 << 20) == 0 then return ("%gM"):format(value / (1 << 20)) end
  if value % 1024 == 0 then return ("%gk"):format(value / 1024) end
  return ("%g"):format(value)
end

--- Ticks of a logarithmic axis, low and high being logarithms to base 10: powers of `base`, at
-- most about ten; where those are too few, 1, 2 and 5 of each decade, or the ends themselves.
local function log_ticks(low, high, base)
  local one, ticks = math.log(base, 10), {}
  local first, last = math.ceil(low / one - 1e-9), math.floor(high / one + 1e-9)
  for power = first, last, math.max(1, math.ceil((last - first) / 9)) do
    ticks[#ticks + 1] = (base + 0.0) ^ power
  end
  if #ticks >= (base == 2 and 2 or 3) then return ticks end
  ticks = {}
  for power = math.floor(low), math.ceil(high) do
    for _, digit in ipairs { 1, 2, 5 } do
      local at = math.log(digit, 10) + power
      if at >= low - 1e-9 and at <= high + 1e-9 then ticks[#ticks + 1] = digit * 10.0 ^ power end
    end
  end
  return #ticks >= 2 and ticks or { 10 ^ low, 10 ^ high }
end

--- An axis: maps values to 0 .. 1 and lists its ticks. log: false, true, or 2 for powers of two.
local function axis(low, high, log)
  if log then
    low, high = math.log(low, 10), math.log(high, 10)
    if high - low < 1e-9 then high = low + 1 end
    return function(value) return (math.log(value, 10) - low) / (high - low) end,
      log_ticks(low, high, log == 2 and 2 or 10)
  end
  if high - low < 1e-12 then low, high = low - 0.5, high + 0.5 end
  local step, ticks = round_step(high - low, 6), {}
  low, high = math.floor(low / step) * step, math.ceil(high / step) * step
  for i = 0, math.floor((high - low) / step + 0.5) do ticks[#ticks + 1] = low + i * step end
  return function(value) return (value - low) / (high - low) end, ticks
end

local function bounds(series, key, log)
  local low, high = math.huge, -math.huge
  for _, line in ipairs(series) do
    for _, point in ipairs(line.points) do
      local value = point[key]
      if value == value and math.abs(value) < math.huge and (not log or value > 0) then
        low, high = math.min(low, value), math.max(high, value)
      end
    end
  end
  if low > high then low, high = log and 1 or 0, log and 10 or 1 end
  return low, high
end

local function text(x, y, size, anchor, words, extra)
  return ('<text x="%.1f" y="%.1f" font-size="%d" text-anchor="%s"%s>%s</text>'):format(
    x, y, size, anchor, extra or "", escape(words))
end

local function frame(out, chart, x_of, x_ticks, y_of, y_ticks)
  for _, tick in ipairs(x_ticks) do
    local x = x_of(tick)
    out[#out + 1] = ('<path d="M%.1f %dV%d" stroke="#ddd"/>'):format(x, TOP, HEIGHT - BOTTOM)
    out[#out + 1] = text(x, HEIGHT - BOTTOM + 18, 12, "middle",
                         chart.log_x == 2 and binary_label(tick) or label(tick))
  end
  for _, tick in ipairs(y_ticks) do
    local y = y_of(tick)
    out[#out + 1] = ('<path d="M%d %.1fH%d" stroke="#ddd"/>'):format(LEFT, y, WIDTH - RIGHT)
    out[#out + 1] = text(LEFT - 8, y + 4, 12, "end", label(tick))
  end
  out[#out + 1] = ('<path d="M%d %dV%dH%d" fill="none" stroke="#666"/>'):format(LEFT, TOP,
    HEIGHT - BOTTOM, WIDTH - RIGHT)
  out[#out + 1] = text(WIDTH / 2, 26, 16, "middle", chart.title or "")
  out[#out + 1] = text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, 13, "middle", chart.x or "")
  local middle = (TOP + HEIGHT - BOTTOM) / 2
  out[#out + 1] = text(18, middle, 13, "middle", chart.y or "",
                       (' transform="rotate(-90 18 %.1f)"'):format(middle))
end

local function dot(out, x, y, colour)
  out[#out + 1] = ('<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>'):format(x, y, colour)
end

local function stroke(out, path, colour, line)
  out[#out + 1] = ('<path d="%s" fill="none" stroke="%s" stroke-width="2"%s/>'):format(path, colour,
    line.dashed and ' stroke-dasharray="6 4"' or "")
end

--- Does a point have a place on the chart's axes?
local function usable(point, chart)
  local x, y = point[1], point[2]
  return x == x and y == y and (not chart.log_x or x > 0) and (not chart.log_y or y > 0)
end

--- A line through the points, with a dot at each that has marks, or no neighbour to be joined to.
local function draw_line(out, line, colour, x_of, y_of, chart)
  local path, points, before = {}, line.points, false
  for i, point in ipairs(points) do
    local here = usable(point, chart)
    if here then
      local x, y, next = x_of(point[1]), y_of(point[2]), points[i + 1]
      path[#path + 1] = ("%s%.1f %.1f"):format(before and "L" or "M", x, y)
      if line.marks or not (before or next and usable(next, chart)) then dot(out, x, y, colour) end
    end
    before = here
  end
  if #path > 1 then stroke(out, table.concat(path), colour, line) end
end

--- The names of the lines below the chart, where no curve runs, each beside a piece of its line: a
-- dot where there are marks, and no line where there is one point. Returns the rows that it took.
local function legend(out, series)
  local x, row = LEFT, 0
  for i, line in ipairs(series) do
    if line.name then
      local colour = line.colour or svg.colour(i)
      local width = 7 * (utf8.len(line.name) or #line.name) + 56
      if x > LEFT and x + width > WIDTH then x, row = LEFT, row + 1 end
      local y = HEIGHT + 10 + 20 * row
      local one = #line.points == 1
      if not one then stroke(out, ("M%d %dH%d"):format(x, y - 4, x + 28), colour, line) end
      if one or line.marks then dot(out, x + 14, y - 4, colour) end
      out[#out + 1] = text(x + 36, y, 12, "start", line.name)
      x = x + width
    end
  end
  return x > LEFT and row + 1 or 0
end

local function document(body, width, height)
  return ('<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" ' ..
    'font-family="sans-serif">\n<rect width="%d" height="%d" fill="#fff"/>\n%s\n</svg>\n'):format(
    width, height, width, height, width, height, table.concat(body, "\n"))
end

--- The colour of line i of a chart that says none, and whether it comes again there.
function svg.colour(i) return COLOURS[(i - 1) % #COLOURS + 1], i > #COLOURS end

--- A line chart. chart: { title, x, y, log_x, log_y, series = {{ name, points = {{x, y}, ...},
-- dashed, marks, colour }, ...} }. log_x, log_y: true, or 2 for ticks at powers of two. Returns the
-- SVG text.
function svg.chart(chart)
  local x_low, x_high = bounds(chart.series, 1, chart.log_x)
  local y_low, y_high = bounds(chart.series, 2, chart.log_y)
  local x_axis, x_ticks = axis(x_low, x_high, chart.log_x)
  local y_axis, y_ticks = axis(y_low, y_high, chart.log_y)
  local function x_of(v) return LEFT + x_axis(v) * (WIDTH - LEFT - RIGHT) end
  local function y_of(v) return HEIGHT - BOTTOM - y_axis(v) * (HEIGHT - TOP - BOTTOM) end
  local out = {}
  frame(out, chart, x_of, x_ticks, y_of, y_ticks)
  for i, line in ipairs(chart.series) do
    draw_line(out, line, line.colour or svg.colour(i), x_of, y_of, chart)
  end
  return document(out, WIDTH, HEIGHT + 20 * legend(out, chart.series))
end

--- A heat map of rows of numbers (dark: high). map: { title, rows, labels (optional) }.
function svg.heatmap(map)
  local rows, out = map.rows, {}
  local n, m = #rows, #rows[1]
  local low, high = math.huge, -math.huge
  for _, row in ipairs(rows) do
    for _, value in ipairs(row) do low, high = math.min(low, value), math.max(high, value) end
  end
  local cell = math.max(2, math.min(24, 600 // math.max(n, m)))
  for i, row in ipairs(rows) do
    for j, value in ipairs(row) do
      local shade = math.floor(255 - 215 * (value - low) / math.max(high - low, 1e-12))
      out[#out + 1] = ('<rect x="%d" y="%d" width="%d" height="%d" fill="rgb(%d,%d,255)"/>'):format(
        LEFT + (j - 1) * cell, TOP + (i - 1) * cell, cell, cell, shade, shade)
    end
    if map.labels and cell >= 10 then
      out[#out + 1] = text(LEFT - 6, TOP + i * cell - cell / 4, 11, "end", map.labels[i] or "")
      out[#out + 1] = text(LEFT + (i - 0.5) * cell, TOP - 6, 11, "middle", map.labels[i] or "")
    end
  end
  out[#out + 1] = text(LEFT, 22, 15, "start", map.title or "")
  return document(out, LEFT + m * cell + RIGHT, TOP + n * cell + RIGHT)
end

--- Several pictures (SVG texts of this file) as one, in so many columns.
function svg.panels(pictures, columns)
  local out, y, width = {}, 0, 0
  for first = 1, #pictures, columns do
    local x, row = 0, 0
    for i = first, math.min(first + columns - 1, #pictures) do
      local w, h = pictures[i]:match '^<svg [^>]-width="(%d+)" height="(%d+)"'
      out[#out + 1] = pictures[i]:gsub("^<svg ", ('<svg x="%d" y="%d" '):format(x, y))
      x, row = x + tonumber(w), math.max(row, tonumber(h))
    end
    y, width = y + row, math.max(width, x)
  end
  return document(out, width, y)
end

--- A curve as one line of text, for terminals.
function svg.sparkline(values, width)
  local bars = { "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█" }
  local low, high, out = math.huge, -math.huge, {}
  for _, v in ipairs(values) do low, high = math.min(low, v), math.max(high, v) end
  for i = 1, math.min(width, #values) do
    local v = values[math.ceil(i * #values / math.min(width, #values))]
    out[i] = bars[1 + math.floor(7.999 * (v - low) / math.max(high - low, 1e-12))]
  end
  return table.concat(out)
end

return svg
