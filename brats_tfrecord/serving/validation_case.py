"""The Dice of a validation case under any post-processing, computed from voxel counts."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from brats_tfrecord import spec
from brats_tfrecord.boxes import bounding_box
from brats_tfrecord.serving.postprocess import NEIGHBOURS, PostProcessing

_ENHANCING = list(spec.REGIONS).index("ET")


@dataclass(frozen=True)
class ValidationCase:
    """A case as voxel counts per component of its predicted regions; R = 3 regions: WT, TC, ET.

    Post-processing removes whole components, and a component of ET lies in one component of TC,
    which lies in one of WT. Voxels of equal components therefore always change together: they
    form a group, and the counts of the groups determine the Dice.

    Attributes:
        patient_id: id of the patient; several cases may share it.
        components: int64 [N, R], the component of each region that contains group n; 0: none.
        voxels: int64 [N], voxels of each group.
        true_voxels: int64 [N, R], how many of them belong to each region of the truth.
        truth: int64 [R], voxels of each region of the truth.
        enhancing_voxels: voxels of predicted ET on the recipe's grid, before post-processing.
        voxel_mm3: volume of a voxel in mm³.
    """

    patient_id: str
    components: np.ndarray
    voxels: np.ndarray
    true_voxels: np.ndarray
    truth: np.ndarray
    enhancing_voxels: int
    voxel_mm3: float

    @classmethod
    def from_label_maps(
        cls,
        patient_id: str,
        truth: np.ndarray,
        prediction: np.ndarray,
        spacing_mm: tuple[float, float, float],
        grid_voxels: float = 1.0,
    ) -> "ValidationCase":
        """Counts the voxels of two label maps.

        Args:
            patient_id: id of the patient.
            truth, prediction: uint8 [X, Y, Z] canonical classes; the prediction is not
                post-processed.
            spacing_mm: (x, y, z) voxel spacing in millimetres.
            grid_voxels: voxels of the recipe's grid per voxel of the label maps; 1 unless the
                recipe resampled the case.
        """
        box = bounding_box((truth | prediction) != spec.BACKGROUND)
        truth, prediction = truth[box], prediction[box]
        inside = [np.isin(prediction, classes) for classes in spec.REGIONS.values()]
        labels = [ndimage.label(region, NEIGHBOURS)[0] for region in inside]
        is_true = [np.isin(truth, classes) for classes in spec.REGIONS.values()]
        # WT contains the other regions. One number per group: `unique` is slow on rows.
        key = np.zeros(np.count_nonzero(inside[0]), np.int64)
        for label in labels:
            key = key * (int(label.max(initial=0)) + 1) + label[inside[0]]
        _, first, group, voxels = np.unique(
            key, return_index=True, return_inverse=True, return_counts=True
        )
        count = len(voxels)
        return cls(
            patient_id,
            np.stack([label[inside[0]][first] for label in labels], axis=1).astype(np.int64),
            voxels,
            np.stack(
                [np.bincount(group[region[inside[0]]], minlength=count) for region in is_true],
                axis=1,
            ),
            np.array([np.count_nonzero(region) for region in is_true]),
            round(np.count_nonzero(inside[_ENHANCING]) * grid_voxels),
            float(np.prod(spacing_mm)),
        )

    @property
    def has_enhancing_tumour(self) -> bool:
        """Whether the truth holds enhancing tumour."""
        return bool(self.truth[_ENHANCING])

    def dice(self, post_processing: PostProcessing) -> np.ndarray:
        """Computes the Dice that the post-processed prediction would have.

        Args:
            post_processing: thresholds of the corrections.

        Returns:
            float64 [R]; 1 where truth and prediction are empty, 0 where one of them is.
        """
        inside = self.components > 0
        if self.enhancing_voxels < post_processing.min_enhancing_voxels:
            inside[:, _ENHANCING] = False
        for region, min_mm3 in enumerate(post_processing.min_component_mm3):
            if min_mm3 > 0:
                # What leaves a region also leaves the regions within it.
                inside[self._in_small_component(inside, region, min_mm3), region:] = False
        overlap = np.where(inside, self.true_voxels, 0).sum(axis=0)
        total = np.where(inside, self.voxels[:, None], 0).sum(axis=0) + self.truth
        return np.where(total > 0, 2 * overlap / np.maximum(total, 1), 1.0)

    def _in_small_component(self, inside, region, min_mm3):
        """Returns bool [N]: the group lies in a component of `region` that is too small."""
        component = np.where(inside[:, region], self.components[:, region], 0)
        sizes = np.bincount(component, self.voxels * inside[:, region], minlength=1)
        small = sizes < min(min_mm3 / self.voxel_mm3, sizes.max())
        return inside[:, region] & small[component]
