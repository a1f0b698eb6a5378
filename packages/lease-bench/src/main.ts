/** `pnpm bench`: see `--help`. */
import { writeFile } from 'node:fs/promises'
import { CommanderError } from 'commander'
import { armMain, launchCounted, launchProcess } from './arm-process.ts'
import type { Substrate, Workload } from './bench.ts'
import { checkoutAt } from './checkout.ts'
import { compare } from './compare.ts'
import { comparisonHead, comparisonReportOf, comparisonText } from './comparison-report.ts'
import { fillDocument } from './markdown.ts'
import { parseOptions, type BenchOptions } from './options.ts'
import { progressOn } from './progress.ts'
import { reportOf, tables } from './report.ts'
import { plannedSeconds, run } from './run.ts'
import { allSubstrates } from './substrates/index.ts'
import { workloads } from './workloads/index.ts'

interface Chosen {
  readonly substrates: readonly Substrate[]
  readonly workloads: readonly Workload[]
  readonly options: BenchOptions
}

try {
  const substrates = await allSubstrates()
  const options = parseOptions(
    process.argv.slice(2).filter((word, index) => !(index === 0 && word === '--')),
    {
      substrates: substrates.map(({ name }) => name),
      workloads,
      adapters: [...new Set(substrates.flatMap(({ adapters }) => adapters.map(({ name }) => name)))],
    },
  )
  const chosen = {
    substrates: substrates.filter(({ name }) => options.substrates.includes(name)),
    workloads: workloads.filter(({ name }) => options.workloads.includes(name)),
    options,
  }
  process.exitCode =
    options.against === undefined ? await measureLibraries(chosen) : await compareWith(options.against, chosen)
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode
  else {
    process.stderr.write(`error: ${error instanceof Error ? error.message : String(error)}\n`)
    process.exitCode = 1
  }
}

/** Returns the code to end with. */
async function measureLibraries({ substrates, workloads, options }: Chosen): Promise<number> {
  const launch = (job: Parameters<typeof launchProcess>[0]): ReturnType<typeof launchProcess> => launchProcess(job)
  const minutes = Math.ceil(plannedSeconds(substrates, workloads, options) / 60)
  process.stderr.write(`It takes about ${minutes} minute${minutes === 1 ? '' : 's'}, and the start of servers.\n`)
  const results = await run(substrates, workloads, options, progressOn(process.stderr), launch)
  const report = reportOf(options, results)
  process.stdout.write(`${tables(report)}\n`)
  if (options.json !== undefined) await writeJson(options.json, report)
  if (options.svg !== undefined) {
    const { chartOf } = await import('./chart.ts') // what draws is large
    await writeFile(options.svg, chartOf(report))
  }
  if (options.markdown !== undefined) await fillDocument(options.markdown, report)
  return results.some(({ failures }) => failures.length > 0) ? 1 : 0
}

/** Returns the code to end with. After Ctrl-C it closes what it opened; after a second one the servers end by themselves. */
async function compareWith(folder: string, chosen: Chosen): Promise<number> {
  const { options } = chosen
  const other = await checkoutAt(folder)
  const interruption = new AbortController()
  let code = 0
  for (const [signal, number] of [
    ['SIGINT', 2],
    ['SIGTERM', 15],
  ] as const) {
    process.once(signal, () => {
      code = 128 + number
      interruption.abort(new Error('interrupted'))
    })
  }
  process.stdout.write(`${comparisonHead(options, other.folder)}\n`)
  const comparisons = await compare({
    ...chosen,
    other,
    progress: progressOn(process.stderr),
    launch: (job, side) => launchCounted(job, side === 'here' ? armMain : other.armMain),
    finished: (comparison) => process.stdout.write(`${comparisonText(comparison)}\n`),
    signal: interruption.signal,
  }).catch((error: unknown) => {
    if (code === 0) throw error
    process.stderr.write('interrupted: everything is closed\n')
  })
  if (comparisons === undefined) return code
  if (options.json !== undefined) await writeJson(options.json, comparisonReportOf(options, other.folder, comparisons))
  if (comparisons.failures.length > 0) return 1
  return options.failIfWorse && comparisons.compared.some(({ verdict }) => verdict === 'worse') ? 2 : 0
}

function writeJson(file: string, report: object): Promise<void> {
  return writeFile(file, `${JSON.stringify(report, undefined, 2)}\n`)
}
