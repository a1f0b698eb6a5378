/** Which nemeses a run has. */
import type { Ground, Nemesis } from '../ground.ts'

/**
 * The nemeses of this ground with these names, in their order; without names, all that are no controls.
 * @throws with one line when the ground has none of that name
 */
export function nemesesOf(ground: Ground, names?: readonly string[]): readonly Nemesis[] {
  if (names === undefined) return ground.nemeses.filter(({ isControl }) => !isControl)
  return names.map((name) => {
    const found = ground.nemeses.find((nemesis) => nemesis.name === name)
    if (found !== undefined) return found
    const why = ground.leftOut.find((one) => one.name === name)?.why
    const reason = why === undefined ? '' : ` here (${why})`
    const all = ground.nemeses.map((nemesis) => nemesis.name).join(', ')
    throw new Error(`${ground.name} has no nemesis "${name}"${reason}; it has ${all}`)
  })
}
