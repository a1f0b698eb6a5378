import { Presets, SingleBar } from 'cli-progress'
import type { Progress } from './run.ts'

/** A bar on standard error; a line for each group where that is no terminal. */
export function progressOn(stream: NodeJS.WriteStream): Progress {
  const bar = new SingleBar(
    {
      stream,
      format: '{bar} {value}/{total} {what} {label}',
      hideCursor: true,
      clearOnComplete: true,
      noTTYOutput: false,
      emptyOnZero: true,
      fps: 4,
    },
    Presets.shades_classic,
  )
  return {
    begin(what, measurements) {
      if (stream.isTTY) bar.start(measurements, 0, { what, label: '' })
      else stream.write(`${what}: ${measurements} measurements\n`)
    },
    measured(label) {
      if (stream.isTTY) bar.increment(1, { label })
    },
    failed({ label, reason }) {
      stream.write(`${stream.isTTY ? '\n' : ''}${label} is left out: ${reason}\n`)
    },
    end() {
      bar.stop()
    },
  }
}
