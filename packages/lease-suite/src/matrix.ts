/** What the matrix adds to the test command: other versions of Node, and its record in the documentation. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { rewriteRecord } from './record.ts'
import { totals } from './report.ts'
import type { SuiteResult } from './suite.ts'
import { root } from './test-files.ts'

/** The supported versions that run what needs no server; everything runs on the one that runs this. */
export const NODES = ['22', '24'] as const

/** Where the program of this version is; npm brings it. @throws with what to do when it does not */
export async function nodeOf(version: string): Promise<string> {
  const args = ['exec', '--yes', `--package=node@${version}`, '--', 'node', '-p', 'process.execPath']
  try {
    const { stdout } = await promisify(execFile)('npm', args, { cwd: root, timeout: 300_000 })
    return stdout.trim()
  } catch (cause) {
    throw new Error(`npm cannot bring Node ${version}: the matrix needs the npm registry`, { cause })
  }
}

/** Replaces the record of the last matrix in docs/reliability.md. */
export function writeReliability(result: SuiteResult): void {
  const { passed, failed, skipped } = totals(result)
  const nodes = new Map<string, number>()
  for (const { file, outcomes } of result.files) {
    const node = /on Node (\d+)$/.exec(file.title)?.[1] ?? process.versions.node
    nodes.set(node, (nodes.get(node) ?? 0) + outcomes.filter(({ state }) => state === 'passed').length)
  }
  rewriteRecord('record', () => [
    '| | |',
    '|---|---|',
    `| day | ${new Date().toISOString().slice(0, 10)} |`,
    `| time | ${(result.ms / 60_000).toFixed(1)} minutes |`,
    `| tests | ${passed} passed, ${failed} failed, ${skipped} skipped |`,
    ...[...nodes].map(([node, count]) => `| passed on Node ${node} | ${count} |`),
  ])
}
