/** One planted bug: a patch to the product that the simulator must catch. */
export interface Mutant {
  /** short, as `--only` takes it */
  name: string
  /** from the root of the repository */
  file: string
  /** exact text; it must occur once */
  find: string
  replace: string
  /** which promise of the protocol it breaks */
  why: string
}
