/** `pnpm bench`: see `--help`. */
import { writeFile } from 'node:fs/promises'
import { CommanderError } from 'commander'
import { launchProcess } from './arm-process.ts'
import { fillDocument } from './markdown.ts'
import { parseOptions } from './options.ts'
import { progressOn } from './progress.ts'
import { reportOf, tables } from './report.ts'
import { run } from './run.ts'
import { allSubstrates } from './substrates/index.ts'
import { workloads } from './workloads/index.ts'

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
  const results = await run(
    substrates.filter(({ name }) => options.substrates.includes(name)),
    workloads.filter(({ name }) => options.workloads.includes(name)),
    options,
    progressOn(process.stderr),
    (job) => launchProcess(job),
  )
  const report = reportOf(options, results)
  process.stdout.write(`${tables(report)}\n`)
  if (options.json !== undefined) await writeFile(options.json, `${JSON.stringify(report, undefined, 2)}\n`)
  if (options.svg !== undefined) {
    const { chartOf } = await import('./chart.ts') // what draws is large
    await writeFile(options.svg, chartOf(report))
  }
  if (options.markdown !== undefined) await fillDocument(options.markdown, report)
  if (results.some(({ failures }) => failures.length > 0)) process.exitCode = 1
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode
  else {
    process.stderr.write(`error: ${error instanceof Error ? error.message : String(error)}\n`)
    process.exitCode = 1
  }
}
