/** The results as one picture: a panel for each table, a bar for each row's first metric, a line for its spread. */
import { BarChart, CustomChart } from 'echarts/charts'
import { GridComponent, TitleComponent } from 'echarts/components'
import { init, use } from 'echarts/core'
import { SVGRenderer } from 'echarts/renderers'
import type { EChartsOption, SeriesOption } from 'echarts'
import type { Role } from './bench.ts'
import { figure, type Report } from './report.ts'
import type { TableResult } from './run.ts'

use([BarChart, CustomChart, GridComponent, TitleComponent, SVGRenderer])

const WIDTH = 1_400
const COLUMNS = 2
const MARGIN = 24
const LABELS = 190
/** Right of the bars, for the figures. */
const FIGURES = 90
const HEAD = 62
const BAR = 20

const colors: Readonly<Record<Role, string>> = { library: '#2563eb', peer: '#f59e0b', raw: '#9ca3af' }

/** Where a table is drawn. */
interface Panel {
  readonly result: TableResult
  readonly left: number
  readonly top: number
}

/** An SVG document. */
export function chartOf({ date, node, machine, results }: Report): string {
  const { panels, height } = layOut(results.filter(({ rows }) => rows.length > 0))
  const chart = init(null, null, { renderer: 'svg', ssr: true, width: WIDTH, height })
  const heading = `Blue: this library. Orange: other libraries. Grey: by hand. ${date.slice(0, 10)}, node ${node}, ${machine}`
  const barWidth = panelWidth - LABELS - FIGURES
  const option: EChartsOption = {
    animation: false,
    backgroundColor: '#ffffff',
    title: [
      { text: heading, left: MARGIN, top: MARGIN / 2, textStyle: { fontSize: 13, fontWeight: 'normal' } },
      ...panels.map(({ result, left, top }) => ({
        text: `${result.workload} on ${result.substrate}: ${result.metrics[0]?.name ?? ''}`,
        subtext: result.title,
        left,
        top,
        itemGap: 4,
        textStyle: { fontSize: 14 },
        subtextStyle: { fontSize: 11 },
      })),
    ],
    grid: panels.map(({ result, left, top }) => ({
      left: left + LABELS,
      top: top + HEAD - MARGIN / 2,
      width: barWidth,
      height: result.rows.length * BAR,
    })),
    xAxis: panels.map((_, gridIndex) => ({ type: 'value', gridIndex, show: false, min: 0 })),
    yAxis: panels.map(({ result }, gridIndex) => ({
      type: 'category',
      gridIndex,
      inverse: true,
      data: result.rows.map(({ label }) => label),
      axisLine: { show: false },
      axisTick: { show: false },
    })),
    series: panels.flatMap(({ result }, index) => seriesOf(result, index)),
  }
  chart.setOption(option)
  const svg = chart.renderToSVGString()
  chart.dispose()
  return svg
}

const panelWidth = (WIDTH - MARGIN) / COLUMNS - MARGIN

/** Each panel goes where the column ends first. */
function layOut(results: readonly TableResult[]): { readonly panels: readonly Panel[]; readonly height: number } {
  const ends = Array.from({ length: COLUMNS }, () => 2 * MARGIN)
  const panels = results.map((result): Panel => {
    const top = Math.min(...ends)
    const column = ends.indexOf(top)
    ends[column] = top + HEAD + result.rows.length * BAR + MARGIN
    return { result, left: MARGIN + column * (panelWidth + MARGIN), top }
  })
  return { panels, height: Math.max(...ends) }
}

function seriesOf({ rows, metrics }: TableResult, index: number): SeriesOption[] {
  const main = metrics[0]?.name ?? ''
  const summaries = rows.map(({ measured }) => measured[main])
  const shown = (value: number | undefined): number => (value !== undefined && Number.isFinite(value) ? value : 0)
  const axes = { xAxisIndex: index, yAxisIndex: index }
  return [
    {
      type: 'bar',
      ...axes,
      barWidth: '65%',
      data: rows.map(({ role }, row) => ({
        value: shown(summaries[row]?.median),
        itemStyle: { color: colors[role] },
        label: { show: true, position: 'right', formatter: figure(summaries[row]?.median ?? Number.NaN), distance: 8 },
      })),
    },
    {
      type: 'custom',
      ...axes,
      silent: true,
      data: summaries.map((summary, row) => [shown(summary?.min), row, shown(summary?.max)]),
      encode: { x: [0, 2], y: 1 },
      renderItem(_params, api) {
        const [x1 = 0, y = 0] = api.coord([api.value(0), api.value(1)])
        const [x2 = 0] = api.coord([api.value(2), api.value(1)])
        return { type: 'line', shape: { x1, x2, y1: y, y2: y }, style: { stroke: '#111827', lineWidth: 1 } }
      },
    },
  ]
}
