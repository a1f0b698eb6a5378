/** How much of a race is enough: the test command runs as much as finds a defect, the matrix five times as much. */
export function enough(count: number): number {
  return isMatrix() ? count * 5 : count
}

/**
 * Where what is tested does not depend on the version of the server, or on how many nodes it has, the first one of these is enough: the
 * matrix takes them all.
 */
export function enoughOf<T>(targets: readonly T[]): readonly T[] {
  return isMatrix() ? targets : targets.slice(0, 1)
}

/** Whether this is a run of `test:matrix`, which may take its time. */
export function isMatrix(): boolean {
  return process.env['LEASE_SUITE'] === 'matrix'
}
